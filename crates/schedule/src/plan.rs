//! The plan: every site's next slot, and what is due now.
