//! Text parsed in chunks on all cores gives what parsing it row by row gives.

use proptest::prelude::*;

use super::super::{ImportReport, ImportSchema, ImportSettings, import};
use crate::data::Split;

fn schema(quote: &str, split: &str) -> ImportSchema {
    let text = format!(
        r#"
name = "rows"
labels = [{{ name = "y" }}]
columns = [
  {{ name = "count", kind = "dense", type = "integer" }},
  {{ name = "price", kind = "dense", type = "float" }},
  {{ name = "word", kind = "key", type = "text" }},
  {{ name = "id", kind = "key", type = "integer", null = ["", "-"] }},
  {{ name = "tags", kind = "key_list", type = "text", separator = "|" }},
]
[source]
files = ["rows.txt"]
delimiter = "\t"
quote = '{quote}'
names = ["word", "count", "y", "skipped", "id", "price", "tags"]
[split]
{split}
"#
    );
    ImportSchema::parse(&text, "rows").expect("a schema")
}

/// What an import came to: its report, and the bytes of every split.
fn imported(text: &[u8], quote: &str, split: &str) -> Result<(ImportReport, Vec<Vec<u8>>), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("rows.txt");
    std::fs::write(&input, text).expect("written");
    let out = folder.path().join("out");
    let mut settings = ImportSettings::new(schema(quote, split), &input, &out);
    settings.max_malformed = 0.5;
    settings.block_rows = 16;
    let report = import(&settings, &mut |_| {}).map_err(|error| {
        error
            .to_string()
            .replace(&*folder.path().to_string_lossy(), "")
    })?;
    let file = |split: Split| std::fs::read(out.join(split.file_name())).unwrap_or_default();
    Ok((report, Split::ALL.map(file).to_vec()))
}

fn same(text: &[u8], split: &str) -> Result<(), TestCaseError> {
    let by_row = imported(text, "\"", split);
    let in_chunks = imported(text, "", split);
    match (by_row, in_chunks) {
        (Ok((a, packs)), Ok((b, others))) => {
            prop_assert_eq!(
                (a.rows, a.lines, a.malformed),
                (b.rows, b.lines, b.malformed)
            );
            let told = |report: &ImportReport| -> Vec<String> {
                let of_line = |line: &String| line.split_once("rows.txt:").map(|l| l.1.to_owned());
                report.first_malformed.iter().filter_map(of_line).collect()
            };
            prop_assert_eq!(told(&a), told(&b));
            prop_assert_eq!(
                &a.dataset.provenance.malformed,
                &b.dataset.provenance.malformed
            );
            prop_assert!(packs == others, "the packed files differ");
        }
        (a, b) => prop_assert_eq!(a.map(|_| ()), b.map(|_| ())),
    }
    Ok(())
}

fn line() -> impl Strategy<Value = String> {
    let fields = (
        "[a-z0-9é]{0,9}",
        prop_oneof![8 => "-?[0-9]{0,20}", 1 => "[0-9]{1,3}[.]0", 1 => "x"],
        prop_oneof![20 => "[01]", 1 => ""],
        prop_oneof![9 => "-?[0-9]{1,12}", 1 => "-", 1 => "y"],
        prop_oneof![9 => "[0-9]{1,5}[.][0-9]{1,4}", 1 => "", 1 => "z"],
        "[a-c|]{0,6}",
    );
    let whole = fields.prop_map(|(word, count, y, id, price, tags)| {
        format!("{word}\t{count}\t{y}\tanything\t{id}\t{price}\t{tags}")
    });
    prop_oneof![30 => whole, 1 => "", 1 => "a\tb", 1 => "[a-z\t]{0,30}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_give_what_rows_give(
        lines in prop::collection::vec((line(), prop_oneof![4 => Just("\n"), 1 => Just("\r\n")]), 1..200),
        open_end: bool,
    ) {
        let mut text: String = lines.iter().map(|(line, end)| format!("{line}{end}")).collect();
        if open_end {
            text.truncate(text.trim_end().len());
        }
        for split in ["by = \"order\"\nvalid = 0.2\ntest = 0.1", "by = \"hash\"\nkey = \"id\"\nvalid = 0.2\ntest = 0.1"] {
            same(text.as_bytes(), split)?;
        }
    }
}

#[test]
fn many_chunks_give_what_rows_give() {
    let line = |row: u64| {
        let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let count = if row.is_multiple_of(9973) {
            "bad".into()
        } else {
            (mixed >> 50).to_string()
        };
        format!(
            "{:08x}\t{count}\t{}\t\t{}\t0.5\ta|b\n",
            mixed as u32,
            row % 2,
            mixed >> 40
        )
    };
    let text: String = (0..80_000).map(line).collect();
    assert!(text.len() > 8 * super::super::line_chunks::CHUNK_BYTES);
    same(text.as_bytes(), "by = \"order\"\nvalid = 0.1\ntest = 0.1").expect("the same");
}
