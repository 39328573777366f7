//! The daemon as every face gets it: the settings of all its parts.

mod device;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod parts;
mod settings;
#[cfg(test)]
mod tests;

pub use device::Device;
pub use settings::{Settings, load, reference_page};
