#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamrec_fuzz::host::check(data));
