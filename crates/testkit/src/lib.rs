//! Faulty sites, faulty networks and names, for tests and demonstrations.
