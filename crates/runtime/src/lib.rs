//! Sockets, tasks, drain, readiness, reload and the admin endpoints.
