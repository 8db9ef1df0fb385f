//! The slots of a site: aligned to the epoch, shifted by a hash of its name. Part of the interface.
