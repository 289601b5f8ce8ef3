"""From tensors to records on disk: columns, staging, phases, kept inputs, sinks."""
