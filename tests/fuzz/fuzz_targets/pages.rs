#![no_main]

libfuzzer_sys::fuzz_target!(init: jarvisd::fuzzing::init(), |bytes: &[u8]| {
    jarvisd::fuzzing::pages(bytes);
});
