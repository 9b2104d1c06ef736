//! Import of Criteo-format text, as one JSON line: rows a second from the start to the packed
//! dataset under its name, synced to the disk.
//!
//! `STREAMREC_FILE` is the text (`benches/peers/criteo_text.py` makes one and times others on it),
//! `STREAMREC_OUT` the folder that takes the dataset, which is removed again.

use std::path::PathBuf;
use std::time::Instant;

use streamrec::data::import::{ImportSettings, formats, import};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const WINDOWS: usize = 3;

fn path(variable: &str) -> Result<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    found.ok_or_else(|| format!("{variable}: expected a path, it is not set").into())
}

fn main() -> Result<()> {
    let (file, out) = (path("STREAMREC_FILE")?, path("STREAMREC_OUT")?);
    let mut rates = Vec::with_capacity(WINDOWS);
    let mut rows = 0;
    for _ in 0..WINDOWS {
        let schema = formats::detect("criteo", &file)?;
        let settings = ImportSettings::new(schema, &file, &out);
        let began = Instant::now();
        let report = import(&settings, &mut |_| {})?;
        rates.push((report.rows as f64 / began.elapsed().as_secs_f64()).round());
        rows = report.rows;
        std::fs::remove_dir_all(&out)?;
    }
    rates.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = serde_json::json!({
        "side": "StreamRec", "what": "import, packed and synced", "rows": rows,
        "rows_per_s": rates[WINDOWS / 2], "windows": rates,
        "peak_memory": peak.map(str::trim),
    });
    println!("{line}");
    Ok(())
}
