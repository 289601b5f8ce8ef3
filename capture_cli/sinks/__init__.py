"""MLflow and TensorBoard beside the records.

    with Recorder("runs/mine", sinks=[MlflowSink("http://127.0.0.1:5000")]) as recorder: ...

    records.jsonl -> open_run(...).follow(cursor) -> Sending -> MlflowRun or EventFiles

A sink starts a process that follows the file of records and sends what has been written since: `process` reads, `sending`
decides what a tracker is given, `mlflow_run` and `event_files` talk to trackers, `follower` is the part in the training.
`capture log RUN` runs the same code in the foreground, up to the present end of the records.

* The records are the same bytes with and without sinks, whatever happens to these.
* A step never waits. The file is the queue, so nothing is dropped. An error ends a sink with one warning, never the training.
* Everything may be sent twice: what a tracker holds is compared with the records, and only what is missing is sent.

Neither package is imported before its sink is made. If one is missing, UsageError says how to install it.
"""
