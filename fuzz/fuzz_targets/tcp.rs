#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| streamrec_fuzz::tcp::check(data));
