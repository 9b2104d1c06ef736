use super::operations::Operation;
use super::timing::{Times, median, working_set};

/// What a GPU's cache may hold: twice that of an H200.
const CACHE_BYTES: usize = 100 << 20;

/// One measurement.
pub struct Line {
    operation: &'static str,
    shape: String,
    /// One kernel of several, or the only one.
    kernel: Option<&'static str>,
    clock: &'static str,
    /// Median, least, most.
    microseconds: [f64; 3],
    bytes: usize,
    is_cached: bool,
}

fn spread(ascending: &[f64]) -> [f64; 3] {
    let end = |time: Option<&f64>| time.copied().unwrap_or(f64::NAN);
    [
        median(ascending),
        end(ascending.first()),
        end(ascending.last()),
    ]
}

impl Line {
    /// The line of an operation, and those of its kernels where it has several.
    pub fn of(operation: &Operation, times: &Times) -> Vec<Self> {
        let kernels: Vec<_> = operation.kernels().collect();
        let line = |kernel, clock, microseconds, bytes| Self {
            operation: operation.name,
            shape: operation.shape.clone(),
            kernel,
            clock,
            microseconds,
            bytes,
            is_cached: working_set(operation) < CACHE_BYTES,
        };
        let only = (kernels.len() == 1).then(|| kernels[0].0.name);
        let mut lines = vec![line(
            only,
            "repetitions",
            spread(&times.windows),
            operation.bytes(),
        )];
        // A kernel that runs several times has one line.
        let mut names: Vec<&'static str> = Vec::new();
        for name in kernels.iter().map(|(kernel, _)| kernel.name) {
            if times.kernels.is_empty() || names.contains(&name) {
                continue;
            }
            names.push(name);
            let (mut all, mut bytes) = ([0.0; 3], 0);
            for ((_, own), own_times) in kernels
                .iter()
                .zip(&times.kernels)
                .filter(|(kernel, _)| kernel.0.name == name)
            {
                all.iter_mut()
                    .zip(spread(own_times))
                    .for_each(|(sum, own)| *sum += own);
                bytes += own;
            }
            lines.push(line(Some(name), "events", all, bytes));
        }
        lines
    }
}

/// Everything that was measured on a GPU.
pub struct Report {
    architecture: String,
    /// Bytes a second.
    copy: f64,
    lines: Vec<Line>,
}

impl Report {
    pub fn new(architecture: String, copy: f64) -> Self {
        println!(
            "{{\"operation\":\"copy\",\"gigabytes_per_second\":{:.1},\"gpu\":\"{architecture}\"}}",
            copy / 1e9
        );
        Self {
            architecture,
            copy,
            lines: Vec::new(),
        }
    }

    pub fn add(&mut self, line: Line) {
        println!("{}", self.json(&line));
        self.lines.push(line);
    }

    pub fn json(&self, line: &Line) -> String {
        let [median, least, most] = line.microseconds;
        let kernel = line
            .kernel
            .map_or("null".to_owned(), |kernel| format!("{kernel:?}"));
        let rate = line.bytes as f64 / median * 1e6;
        format!(
            "{{\"operation\":{:?},\"shape\":{:?},\"kernel\":{kernel},\"clock\":{:?},\"microseconds\":{median:.2},\
             \"microseconds_least\":{least:.2},\"microseconds_most\":{most:.2},\"bytes\":{},\
             \"gigabytes_per_second\":{:.1},\"share_of_copy\":{:.3},\"cached\":{},\"gpu\":{:?}}}",
            line.operation,
            line.shape,
            line.clock,
            line.bytes,
            rate / 1e9,
            rate / self.copy,
            line.is_cached,
            self.architecture,
        )
    }

    pub fn print_table(&self) {
        println!(
            "\ncopies in the memory of this GPU ({}): {:.1} GB/s\n",
            self.architecture,
            self.copy / 1e9
        );
        println!(
            "| operation | shape | kernel | µs | least to most | MB | GB/s | share of the copy |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for line in &self.lines {
            let [median, least, most] = line.microseconds;
            let rate = line.bytes as f64 / median * 1e6;
            let cached = if line.is_cached {
                " (in the cache)"
            } else {
                ""
            };
            println!(
                "| {} | {} | {} | {median:.1} | {least:.1} to {most:.1} | {:.1} | {:.1} | {:.0} %{cached} |",
                line.operation,
                line.shape,
                line.kernel
                    .map_or("all".to_owned(), |kernel| format!("`{kernel}`")),
                line.bytes as f64 / 1e6,
                rate / 1e9,
                100.0 * rate / self.copy,
            );
        }
    }
}

/// What ran under the emulation, whose times are those of a CPU and say nothing.
pub fn unmeasured(operation: &Operation) -> String {
    let kernels: Vec<_> = operation.kernels().map(|(kernel, _)| kernel.name).collect();
    format!(
        "{{\"operation\":{:?},\"shape\":{:?},\"kernels\":{kernels:?},\"bytes\":{},\"measured\":false}}",
        operation.name,
        operation.shape,
        operation.bytes()
    )
}
