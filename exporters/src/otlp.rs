//! OTLP: encode, queue, send. The queue holds finished requests, bounded in bytes.
