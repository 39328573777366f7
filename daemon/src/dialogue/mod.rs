pub mod speech;
mod wav;
