//! Workload certificates: authority, rotation, rustls configurations, peer verification.
