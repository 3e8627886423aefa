//! What processes and the machine really use, as the system tells it.

pub mod linux;
