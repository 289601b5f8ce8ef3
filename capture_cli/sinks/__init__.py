"""Where records go beside the journal: MLflow and TensorBoard.

    with Recorder("runs/mine", sinks=[MlflowSink("http://127.0.0.1:5000")]) as recorder: ...

    sink.begin(output)  ->  sink.write(record, inputs)  ->  gathering    numbers and the worst samples, in the loop
                                                              |
                                                          background     one thread, a bounded queue
                                                              |
                                                      tracker, events    what talks to MLflow or writes event files

What they promise:

* The records are the same bytes with and without them, whatever becomes of them.
* A step never waits for them. What the queue has no room for is dropped and counted; an error ends them after one warning, and
  counts go to events.jsonl. The exit code is that of the run.
* What was not sent to MLflow can be sent later, from the records: `capture log RUN --mlflow URI`, which doubles nothing.

Neither package is imported before its sink is made; one that is missing is a UsageError that says how to install it.
"""
