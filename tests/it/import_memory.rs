//! Text of any size is imported: the memory that it takes does not grow with it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::process::Stdio;
use std::time::Duration;

use crate::workbench::{Workbench, command, expect_success};

/// Rows of one block of a file.
const BLOCK_ROWS: u64 = 8_000;

/// Rows in Criteo's format: a label, 13 counts and 26 hashes, some missing, parted by tabs. Hashes differ from block to
/// block: neither may the number of distinct ones count.
fn criteo_rows(block: u64) -> Vec<u8> {
    let mut text = Vec::new();
    for row in block * BLOCK_ROWS..(block + 1) * BLOCK_ROWS {
        let random = |salt: u64| {
            let mixed = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (salt << 40);
            mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 24
        };
        write!(text, "{}", random(0) % 4 / 3).expect("memory");
        for field in 1..40 {
            let value = random(field);
            match (value % 10, field) {
                (0, _) => write!(text, "\t"),
                (_, ..14) => write!(text, "\t{}", value % 1_000),
                _ => write!(text, "\t{:08x}", value as u32),
            }
            .expect("memory");
        }
        text.push(b'\n');
    }
    text
}

/// The most memory that an import of so many bytes of text held, in KiB, and its rows.
fn imported(bench: &Workbench, name: &str, bytes: usize) -> (u64, u64) {
    let (folder, out) = (bench.path(name), bench.path(&format!("{name}-out")));
    fs::create_dir(&folder).expect("a folder");
    let mut file = BufWriter::new(File::create(format!("{folder}/train.txt")).expect("a file"));
    let (mut blocks, mut left) = (0, bytes);
    while left > 0 {
        let rows = criteo_rows(blocks);
        file.write_all(&rows).expect("written");
        (blocks, left) = (blocks + 1, left.saturating_sub(rows.len()));
    }
    file.into_inner().expect("written");
    let mut child = command()
        .args([
            "data", "import", "--format", "criteo", &folder, "--out", &out,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // The kernel's own high-water mark: a look misses only what came after it, at the very end.
    let mut peak_kib = 0;
    while child.try_wait().expect("a child").is_none() {
        peak_kib = peak_kib.max(high_water_kib(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    expect_success(&child.wait_with_output().expect("ended"));
    fs::remove_dir_all(&out).expect("removed");
    fs::remove_dir_all(&folder).expect("removed");
    (peak_kib, blocks * BLOCK_ROWS)
}

fn high_water_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mark = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    mark.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[test]
fn an_import_of_eight_times_the_text_takes_no_more_memory() {
    let bench = Workbench::new();
    let (small_kib, few) = imported(&bench, "small", 20_000_000);
    let (large_kib, many) = imported(&bench, "large", 160_000_000);
    println!("{few} rows: {small_kib} KiB; {many} rows: {large_kib} KiB");
    assert!(small_kib > 0, "the mark can be read");
    let grown_kib = large_kib.saturating_sub(small_kib);
    assert!(
        grown_kib < 24 << 10,
        "{few} rows took {small_kib} KiB, {many} rows {large_kib} KiB"
    );
}
