//! `--set section.field=value`: one override of one field.

/// Applies `entry` to `table`. The value is read as TOML, and as a bare string where it is none.
pub(super) fn apply(table: &mut toml::Table, entry: &str) -> Result<(), String> {
    let (path, text) = entry.split_once('=').ok_or_else(|| {
        format!("--set {entry}: expected FIELD=VALUE, such as train.global_batch=4096")
    })?;
    let (path, text) = (path.trim(), text.trim());
    let mut keys: Vec<&str> = path.split('.').collect();
    // `split` yields at least one piece, so `pop` finds it.
    let field = keys.pop().unwrap_or_default();
    if field.is_empty() || keys.iter().any(|key| key.is_empty()) {
        return Err(format!("--set {entry}: empty field name in `{path}`"));
    }
    let mut section = table;
    for key in keys {
        let value = section
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        section = value
            .as_table_mut()
            .ok_or_else(|| format!("--set {entry}: `{key}` is a value, not a section"))?;
    }
    section.insert(field.to_owned(), parse(text));
    Ok(())
}

fn parse(text: &str) -> toml::Value {
    let document = format!("value = {text}");
    match document.parse::<toml::Table>() {
        Ok(mut table) if table.len() == 1 => table
            .remove("value")
            .unwrap_or_else(|| toml::Value::String(text.to_owned())),
        _ => toml::Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().expect("the test's own TOML is valid")
    }

    #[test]
    fn a_value_keeps_its_type() {
        let mut t = table("[train]\nglobal_batch = 1\n");
        for entry in [
            "train.global_batch=4096",
            "train.x=[1, 2]",
            "name=abc",
            "a.b.c=true",
        ] {
            apply(&mut t, entry).expect("a valid override");
        }
        assert_eq!(
            t,
            table("name='abc'\n[train]\nglobal_batch=4096\nx=[1,2]\n[a.b]\nc=true\n")
        );
    }

    #[test]
    fn a_malformed_override_says_what_was_expected() {
        let mut t = table("name = 'x'");
        assert!(
            apply(&mut t, "name")
                .expect_err("no value")
                .contains("FIELD=VALUE")
        );
        assert!(
            apply(&mut t, "name.x=1")
                .expect_err("not a section")
                .contains("not a section")
        );
        assert!(
            apply(&mut t, ".x=1")
                .expect_err("empty")
                .contains("empty field")
        );
    }
}
