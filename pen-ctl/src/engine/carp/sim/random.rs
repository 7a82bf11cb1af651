//! Random faults.
