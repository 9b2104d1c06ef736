//! The schema bound to the fields of real files: which field fills which column, and how.

use std::path::Path;

use streamrec_artifact::{ColumnKind, SourceType};

use super::error::ImportError;
use super::schema::{ColumnSchema, ImportSchema};
use super::value::Conversion;
use crate::data::{Column, Role};

/// What is done for each row.
#[derive(Debug)]
pub(super) struct Plan {
    /// The columns, without those of trailing aggregates.
    pub(super) columns: Vec<Column>,
    /// The place of the time column.
    pub(super) time: Option<usize>,
    /// The places in the file of the fields that are read.
    pub(super) wanted: Vec<usize>,
    /// In order: the time first, since elapsed times need it.
    pub(super) fills: Vec<Fill>,
    /// One for each side table, in order.
    pub(super) joins: Vec<JoinPlan>,
}

/// A field that fills a column.
#[derive(Debug)]
pub(super) struct Fill {
    /// Its place among the wanted fields.
    pub(super) field: usize,
    pub(super) conversion: Conversion,
    pub(super) target: Target,
}

/// The column that a value goes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Column(usize),
    /// A timestamp becomes the time since then, in units of so many milliseconds.
    Elapsed(usize, f64),
}

impl Target {
    /// The place of the column.
    pub(super) fn column(self) -> usize {
        match self {
            Self::Column(column) | Self::Elapsed(column, _) => column,
        }
    }
}

/// A side table as it is read and joined.
#[derive(Debug)]
pub(super) struct JoinPlan {
    /// The places of the key columns of a row.
    pub(super) on: Vec<usize>,
    /// The places in its file of the fields that are read: those of the key, then those of `fills`.
    pub(super) wanted: Vec<usize>,
    /// How its key fields are read.
    pub(super) key: Vec<Conversion>,
    /// What fills which column; `field` counts along `wanted`.
    pub(super) fills: Vec<Fill>,
}

/// A file's fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) names: &'a [String],
}

/// The files of a plan while it is made.
struct Binder<'a> {
    schema: &'a ImportSchema,
    main: Fields<'a>,
    tables: Vec<Fields<'a>>,
    /// Fields that no file has: of the main file, then of each table.
    missing: Vec<Vec<String>>,
    plan: Plan,
}

impl Plan {
    /// Binds `schema` to the fields of the main file and of one file of each side table.
    ///
    /// # Errors
    /// Fields that a file lacks, and columns that would have the same name.
    pub(super) fn new(
        schema: &ImportSchema,
        main: Fields<'_>,
        tables: Vec<Fields<'_>>,
    ) -> Result<Self, ImportError> {
        let joins = schema.tables.iter().map(|_| JoinPlan {
            on: Vec::new(),
            wanted: Vec::new(),
            key: Vec::new(),
            fills: Vec::new(),
        });
        let plan = Self {
            columns: Vec::new(),
            time: None,
            wanted: Vec::new(),
            fills: Vec::new(),
            joins: joins.collect(),
        };
        let missing = vec![Vec::new(); 1 + tables.len()];
        let mut binder = Binder {
            schema,
            main,
            tables,
            missing,
            plan,
        };
        binder.bind_time();
        binder.bind_columns();
        binder.bind_labels();
        binder.bind_joins();
        binder.finish()
    }
}

impl Binder<'_> {
    fn bind_time(&mut self) {
        let Some(time) = &self.schema.time else {
            return;
        };
        let conversion = Conversion::time(time, &self.schema.source.null);
        let column = Column::new(
            &time.name,
            ColumnKind::Time,
            SourceType::Timestamp,
            Role::Time,
        );
        self.plan.time = Some(self.plan.columns.len());
        self.bind(&time.from, column, conversion, None);
    }

    fn bind_columns(&mut self) {
        let schema = self.schema;
        for column in &schema.columns {
            if column.name.contains('*') {
                let expanded = self.expand(column);
                if expanded.is_empty() {
                    self.missing[0].push(format!("like `{}`", column.field()));
                }
                for column in &expanded {
                    self.bind_column(column);
                }
            } else {
                self.bind_column(column);
            }
        }
    }

    /// One column for each field of the main file that matches.
    fn expand(&self, column: &ColumnSchema) -> Vec<ColumnSchema> {
        let Some((head, tail)) = column.field().split_once('*') else {
            return Vec::new();
        };
        let middle = |name: &str| {
            let middle = name.strip_prefix(head)?.strip_suffix(tail)?;
            (!middle.is_empty()).then(|| middle.to_owned())
        };
        let one = |name: &String| {
            let middle = middle(name)?;
            let named = column.name.replacen('*', &middle, 1);
            Some(ColumnSchema {
                name: named,
                from: Some(name.clone()),
                ..column.clone()
            })
        };
        self.main.names.iter().filter_map(one).collect()
    }

    fn bind_column(&mut self, schema: &ColumnSchema) {
        let nulls = match self.schema.table_of(schema.field()) {
            Some((table, _)) => &self.schema.tables[table].source.null,
            None => &self.schema.source.null,
        };
        let conversion = Conversion::column(schema, nulls);
        let (source, unit) = match schema.elapsed {
            Some(unit) => (SourceType::Float, Some(unit.name().to_owned())),
            None => (schema.source, None),
        };
        let mut column = Column::new(&schema.name, schema.kind, source, schema.role);
        column.unit = schema.unit.clone().or(unit);
        column.range = schema.range;
        self.bind(
            schema.field(),
            column,
            conversion,
            schema.elapsed.map(|unit| unit.milliseconds()),
        );
    }

    fn bind_labels(&mut self) {
        let schema = self.schema;
        for label in &schema.labels {
            let conversion = Conversion::label(label, &schema.source.null);
            let column = Column::new(
                &label.name,
                ColumnKind::Dense,
                SourceType::Boolean,
                Role::Label,
            )
            .with_range(0.0, 1.0);
            self.bind(label.field(), column, conversion, None);
        }
    }

    fn bind(&mut self, field: &str, column: Column, conversion: Conversion, elapsed: Option<f64>) {
        let place = self.plan.columns.len();
        self.plan.columns.push(column);
        let target = match elapsed {
            Some(unit) => Target::Elapsed(place, unit),
            None => Target::Column(place),
        };
        let (file, names, wanted, name) = match self.schema.table_of(field) {
            Some((table, name)) => (
                1 + table,
                self.tables[table].names,
                &mut self.plan.joins[table].wanted,
                name,
            ),
            None => (0, self.main.names, &mut self.plan.wanted, field),
        };
        let Some(at) = names.iter().position(|found| found == name) else {
            self.missing[file].push(format!("`{name}`"));
            return;
        };
        let fill = Fill {
            field: wanted.len(),
            conversion,
            target,
        };
        wanted.push(at);
        match file {
            0 => self.plan.fills.push(fill),
            table => self.plan.joins[table - 1].fills.push(fill),
        }
    }

    fn bind_joins(&mut self) {
        for (i, table) in self.schema.tables.iter().enumerate() {
            let join = &mut self.plan.joins[i];
            let mut key_fields = Vec::new();
            for (on, field) in table.on.iter().zip(table.key_fields()) {
                let names = self.tables[i].names;
                match names.iter().position(|found| found == field) {
                    Some(at) => key_fields.push(at),
                    None => self.missing[1 + i].push(format!("`{field}`")),
                }
                // The schema was checked: every name in `on` is a key column.
                let Some(column) = self.schema.columns.iter().find(|column| &column.name == on)
                else {
                    continue;
                };
                join.key
                    .push(Conversion::column(column, &table.source.null));
                join.on.extend(
                    self.plan
                        .columns
                        .iter()
                        .position(|column| &column.name == on),
                );
            }
            for fill in &mut join.fills {
                fill.field += key_fields.len();
            }
            join.wanted.splice(0..0, key_fields);
        }
    }

    fn finish(self) -> Result<Plan, ImportError> {
        let files = std::iter::once(self.main).chain(self.tables);
        for (file, missing) in files.zip(self.missing) {
            if !missing.is_empty() {
                return Err(ImportError::Fields {
                    path: file.path.to_owned(),
                    missing,
                    found: file.names.to_vec(),
                });
            }
        }
        let mut seen = std::collections::HashSet::new();
        let twice = self
            .plan
            .columns
            .iter()
            .filter(|column| !seen.insert(&column.name));
        let errors: Vec<_> = twice
            .map(|column| format!("`{}`: two columns have this name", column.name))
            .collect();
        if errors.is_empty() {
            Ok(self.plan)
        } else {
            Err(ImportError::Schema {
                place: self.schema.name.clone(),
                errors,
            })
        }
    }
}
