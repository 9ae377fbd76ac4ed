//! Trace context, metrics with closed labels, access log and audit.
