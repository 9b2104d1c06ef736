use streamrec_kernels::cuda::step::{Scaler, StepInput, Verdict, begin, judge};
use streamrec_kernels::cuda::{Address, Step};

use crate::device::Device;

const BETAS: [[f32; 2]; 2] = [[0.9, 0.999], [0.8, 0.99]];

/// The device's side of many steps.
struct Steps {
    device: Device,
    scaler: Address,
    step: Address,
    loss: f64,
}

impl Steps {
    fn new(scale: f64, scale_max: f64, growth_steps: u64) -> Self {
        let mut device = Device::new(0);
        let scaler = Scaler {
            scale,
            scale_max,
            growth_steps,
            clean_steps: 0,
            skipped_steps: 0,
        };
        Self {
            scaler: device.upload("scaler", &[scaler]),
            step: device.empty("step", size_of::<Step>()),
            device,
            loss: 0.5,
        }
    }

    fn run(
        &mut self,
        number: u64,
        squares: [f64; 2],
        overflow: bool,
        clip: Option<f64>,
    ) -> (Step, Verdict) {
        let input = StepInput {
            learning_rate: 0.5,
            sparse_learning_rate: 0.25,
            number,
            seed: 7,
        };
        let input = self.device.upload("input", &[input]);
        self.device
            .run([begin(input, self.scaler, BETAS, self.step)]);
        if overflow {
            let mut step = self.step();
            step.overflow = 1;
            self.step = self.device.upload("step", &[step]);
        }
        let squares = self.device.upload("squares", &squares);
        let loss = self.device.upload("loss", &[self.loss]);
        let verdict = self.device.empty("verdict", size_of::<Verdict>());
        self.device
            .run([judge(squares, loss, clip, self.scaler, self.step, verdict)]);
        (self.step(), self.device.download(verdict)[0])
    }

    fn step(&self) -> Step {
        self.device.download(self.step)[0]
    }

    fn scaler(&self) -> Scaler {
        self.device.download(self.scaler)[0]
    }
}

#[test]
fn the_scale_doubles_after_clean_steps_and_halves_after_an_overflow() {
    let mut steps = Steps::new(65536.0, 2f64.powi(100), 3);
    for number in 1..=3 {
        let (step, verdict) = steps.run(number, [1.0, 0.0], false, None);
        assert_eq!((step.skip, step.inverse_scale), (0, 1.0 / 65536.0));
        assert_eq!((verdict.number, verdict.skipped), (number, 0));
    }
    assert_eq!(
        (steps.scaler().scale, steps.scaler().clean_steps),
        (131_072.0, 0)
    );
    // Dense gradients, then those of tables.
    for (number, squares, overflow) in [(4, [0.0, f64::INFINITY], false), (5, [1.0, 1.0], true)] {
        let (step, verdict) = steps.run(number, squares, overflow, Some(1.0));
        assert_eq!((step.skip, step.clip, verdict.skipped), (1, 1.0, 1));
    }
    let (step, _) = steps.run(6, [f64::NAN, 0.0], false, None);
    assert_eq!(step.skip, 1);
    let scaler = steps.scaler();
    assert_eq!(
        (scaler.scale, scaler.skipped_steps, scaler.clean_steps),
        (16384.0, 3, 0)
    );
    // Rules that count steps do not count skipped ones.
    let (step, _) = steps.run(7, [1.0, 0.0], false, None);
    let expected = Step::new(0.5, 4, BETAS[0]);
    assert_eq!(step.first_correction, expected.first_correction);
    assert_eq!(step.second_correction, expected.second_correction);
    let expected = Step::new(0.5, 4, BETAS[1]);
    assert_eq!(step.sparse_first_correction, expected.first_correction);
    assert_eq!(step.sparse_second_correction, expected.second_correction);
}

#[test]
fn growth_ends_before_the_scale_is_infinite() {
    let mut steps = Steps::new(1024.0, 2048.0, 1);
    for number in 1..4 {
        steps.run(number, [1.0, 0.0], false, None);
    }
    assert_eq!(steps.scaler().scale, 2048.0);
}

#[test]
fn without_scaling_the_scale_stays_and_gradients_that_are_not_finite_update_nothing() {
    let mut steps = Steps::new(1.0, 1.0, 0);
    let (step, verdict) = steps.run(1, [9.0, 16.0], false, None);
    assert_eq!((step.inverse_scale, step.clip, step.skip), (1.0, 1.0, 0));
    assert_eq!(
        (verdict.norm, step.learning_rate, step.sparse_learning_rate),
        (5.0, 0.5, 0.25)
    );
    let (step, _) = steps.run(2, [f64::INFINITY, 0.0], false, None);
    assert_eq!((step.skip, steps.scaler().scale), (1, 1.0));
    for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        steps.loss = loss;
        let (step, verdict) = steps.run(3, [1.0, 0.0], false, None);
        assert_eq!((step.skip, verdict.skipped), (1, 1), "a loss of {loss}");
    }
}

#[test]
fn the_norm_is_clipped_after_it_was_unscaled() {
    let mut steps = Steps::new(1024.0, 1024.0, 100);
    let square = 1024.0 * 1024.0;
    let (step, verdict) = steps.run(1, [9.0 * square, 16.0 * square], false, Some(2.0));
    assert_eq!(verdict.norm, 5.0);
    assert!((f64::from(step.clip) - 2.0 / 5.000001).abs() < 1e-7);
    let (step, _) = steps.run(2, [square, 0.0], false, Some(2.0));
    assert_eq!(step.clip, 1.0);
    let (step, _) = steps.run(3, [square, 0.0], false, Some(0.0));
    assert_eq!(step.clip, 0.0);
}

#[test]
fn a_number_is_noted() {
    let mut device = Device::new(0);
    let at = device.upload("noted", &[7u32, 8]);
    device.run([streamrec_kernels::cuda::step::note(at, 42)]);
    assert_eq!(device.download::<u32>(at), [42, 8]);
}
