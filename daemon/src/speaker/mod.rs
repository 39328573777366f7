pub mod fbank;
