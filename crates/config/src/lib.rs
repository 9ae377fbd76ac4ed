//! Settings: one declaration gives parsing, errors with line and column, environment, docs and JSON Schema. Pure.
