use streamrec_kernels::DType;
use streamrec_kernels::cuda::cast::cast;

use crate::values::{Random, narrow, widen};
use streamrec_emulation::Emulator;

#[test]
fn casts_round_as_the_cpu_does() {
    for len in [0, 1, 7, 8, 9, 2048, 5001] {
        let x = Random(1).floats(len);
        for dtype in [DType::Bf16, DType::F16] {
            let mut emulator = Emulator::new(1);
            let from = emulator.upload("x", &x);
            let half = emulator.empty("half", len * 2);
            let back = emulator.empty("back", len * 4);
            emulator.run([
                cast((from, DType::F32), (half, dtype), len).unwrap(),
                cast((half, dtype), (back, DType::F32), len).unwrap(),
            ]);
            let expected = narrow(&x, dtype);
            assert_eq!(emulator.download::<u8>(half), expected);
            assert_eq!(emulator.download::<f32>(back), widen(&expected, dtype));
        }
    }
}

#[test]
fn casts_between_half_types_are_refused() {
    let mut emulator = Emulator::new(0);
    let x = emulator.empty("x", 16);
    let error = cast((x, DType::Bf16), (x, DType::F16), 8).unwrap_err();
    assert!(
        error.to_string().contains("holds f16, expected f32"),
        "{error}"
    );
}
