//! Watches web sites: the command line, the configuration and the roles.
