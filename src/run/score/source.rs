//! The rows to score: files of raw rows, or a packed dataset.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int64Array, ListArray, TimestampMillisecondArray,
    UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, TimeUnit};
use streamrec_artifact::{MISSING_KEY, MISSING_TIME};

use super::arguments::{ScoreArgs, ScoreFormat};
use super::model::Model;
use crate::data::import::{FileFormat, InputPiece, InputRows, InputSettings, SourceSchema};
use crate::data::{
    Batch, BatchReader, Block, Column, Dataset, Inputs, PackReader, RawColumn, ReaderSettings,
    SourceType, Split,
};
use crate::run::RunError;
use crate::run::evaluate;

/// Some rows in their order, still to be scored.
pub(super) struct Piece {
    pub(super) rows: usize,
    /// The columns that are passed through.
    pub(super) keys: Vec<ArrayRef>,
    pub(super) values: Rows,
}

pub(super) enum Rows {
    File(InputPiece),
    Packed(Batch),
}

/// Where rows come from.
pub(super) enum Source {
    File(InputRows),
    Packed(Box<PackedRows>),
}

impl Source {
    pub(super) fn open(args: &ScoreArgs, model: &Model, threads: usize) -> Result<Self, RunError> {
        let mut names: Vec<&String> = args.key.iter().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RunError::Usage(format!(
                "--key {}: it was given twice; leave one out",
                twice[0]
            )));
        }
        for field in model.score_fields() {
            if args.key.contains(field.name()) {
                return Err(RunError::Usage(format!(
                    "--key {}: a column of scores has this name; rename the input's",
                    field.name()
                )));
            }
        }
        let files = Files::find(args)?;
        match files.format {
            ScoreFormat::Packed => {
                let packed = PackedRows::open(args, model, &files.paths, threads)?;
                Ok(Self::Packed(Box::new(packed)))
            }
            _ if args.split.is_some() => Err(RunError::Usage(
                "--split: only a packed dataset has splits; leave it out".into(),
            )),
            format => Ok(Self::File(InputRows::open(settings(
                args,
                model,
                files.paths,
                format,
            ))?)),
        }
    }

    /// The columns that are passed through.
    pub(super) fn key_fields(&self) -> &[Field] {
        match self {
            Self::File(rows) => rows.key_fields(),
            Self::Packed(rows) => &rows.key_fields,
        }
    }

    /// The number of rows, where it is known.
    pub(super) fn rows(&self) -> Option<u64> {
        match self {
            Self::File(rows) => rows.rows(),
            Self::Packed(rows) => Some(rows.reader.rows()),
        }
    }

    /// Where the memory of batches comes back to.
    pub(super) fn recycler(&self) -> Sender<Batch> {
        match self {
            // Nobody listens.
            Self::File(_) => channel().0,
            Self::Packed(rows) => rows.recycler.clone(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Piece>, RunError> {
        match self {
            Self::File(rows) => Ok(rows.next()?.map(|mut piece| Piece {
                rows: piece.rows,
                keys: std::mem::take(&mut piece.keys),
                values: Rows::File(piece),
            })),
            Self::Packed(rows) => rows.next(),
        }
    }
}

fn settings(
    args: &ScoreArgs,
    model: &Model,
    files: Vec<PathBuf>,
    format: ScoreFormat,
) -> InputSettings {
    let of_name = if is_tab_separated(&files[0]) {
        "\t"
    } else {
        ","
    };
    let mut source = SourceSchema {
        delimiter: args.delimiter.clone().unwrap_or_else(|| of_name.into()),
        ..SourceSchema::default()
    };
    if format == ScoreFormat::Parquet {
        source.format = FileFormat::Parquet;
    }
    source.null.extend(args.null.iter().cloned());
    InputSettings {
        files,
        source,
        list_separator: args.list_separator.clone(),
        inputs: model.schema().inputs.clone(),
        keys: args.key.clone(),
        piece_rows: args.batch.get(),
    }
}

/// The files that the arguments mean.
struct Files {
    paths: Vec<PathBuf>,
    format: ScoreFormat,
}

impl Files {
    fn find(args: &ScoreArgs) -> Result<Self, RunError> {
        let mut found: Vec<(PathBuf, ScoreFormat)> = Vec::new();
        for input in &args.input {
            if !input.exists() {
                return Err(RunError::Usage(format!(
                    "{} is not there; check the path",
                    input.display()
                )));
            }
            if !input.is_dir() {
                let format = args.format.or_else(|| of_name(input)).ok_or_else(|| {
                    RunError::Usage(format!(
                        "{}: its name tells no format; say --format parquet or csv",
                        input.display()
                    ))
                })?;
                found.push((input.clone(), format));
            } else if input.join("dataset.json").exists() {
                found.push((input.clone(), ScoreFormat::Packed));
            } else {
                found.extend(parts(input, args.format)?);
            }
        }
        let (first, format) = found[0].clone();
        if let Some((other, _)) = found.iter().find(|(_, other)| *other != format) {
            return Err(RunError::Usage(format!(
                "{} and {} are of two formats; score them one by one",
                first.display(),
                other.display()
            )));
        }
        if format == ScoreFormat::Packed && found.len() > 1 {
            return Err(RunError::Usage(
                "one packed dataset is scored at a time; score them one by one".into(),
            ));
        }
        let paths = found.into_iter().map(|(path, _)| path).collect();
        Ok(Self { paths, format })
    }
}

/// The files of a folder, by name.
fn parts(
    folder: &Path,
    format: Option<ScoreFormat>,
) -> Result<Vec<(PathBuf, ScoreFormat)>, RunError> {
    let entries = std::fs::read_dir(folder).map_err(RunError::file("list", folder))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    let of_format = |path: PathBuf| {
        let found = of_name(&path)?;
        format
            .is_none_or(|format| format == found)
            .then_some((path, found))
    };
    let found: Vec<_> = paths.into_iter().filter_map(of_format).collect();
    if found.is_empty() {
        return Err(RunError::Usage(format!(
            "{} is no packed dataset and holds no .parquet, .csv or .tsv files",
            folder.display()
        )));
    }
    Ok(found)
}

/// The extension of a file, that of its compression left out.
fn extension(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let plain = [".gz", ".zst"];
    let name = plain
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    name.rsplit_once('.').map(|(_, extension)| extension)
}

fn of_name(path: &Path) -> Option<ScoreFormat> {
    match extension(path)? {
        "parquet" => Some(ScoreFormat::Parquet),
        "csv" | "tsv" | "txt" => Some(ScoreFormat::Csv),
        _ => None,
    }
}

fn is_tab_separated(path: &Path) -> bool {
    extension(path) == Some("tsv")
}

/// The rows of a packed dataset, encoded as evaluation encodes them.
pub(super) struct PackedRows {
    reader: BatchReader,
    keys: KeyColumns,
    key_fields: Vec<Field>,
    recycler: Sender<Batch>,
    recycled: Receiver<Batch>,
}

impl PackedRows {
    fn open(
        args: &ScoreArgs,
        model: &Model,
        paths: &[PathBuf],
        threads: usize,
    ) -> Result<Self, RunError> {
        let dataset = Dataset::open(&paths[0])?;
        let splits: Vec<Split> = match args.split {
            Some(split) => vec![split.into()],
            None => Split::ALL
                .into_iter()
                .filter(|split| dataset.splits.get(split).is_some_and(|file| file.rows > 0))
                .collect(),
        };
        let packs = splits.iter().map(|split| dataset.pack(*split));
        let packs: Vec<PackReader> = packs.collect::<Result<_, _>>()?;
        let columns = args.key.iter().map(|key| {
            let (place, column) = dataset.column(key)?;
            Ok((place, column.clone()))
        });
        let columns: Vec<(usize, Column)> = columns.collect::<Result<_, RunError>>()?;
        let mut settings = ReaderSettings::new(
            packs.iter().map(|pack| pack.path().to_owned()).collect(),
            Inputs::Encoded(Arc::clone(model.encoder())),
            Vec::new(),
            args.batch.get(),
        );
        settings.shuffle = false;
        settings.threads = threads;
        settings.base = match &model.run {
            Some(folder) => evaluate::base(folder, &dataset, &model.features)?,
            None => {
                warn_of_counts(&dataset, model);
                None
            }
        };
        let mut reader = BatchReader::new(settings)?;
        reader.start(0, 0)?;
        let (recycler, recycled) = channel();
        Ok(Self {
            reader,
            key_fields: columns.iter().map(|(_, column)| field(column)).collect(),
            keys: KeyColumns::new(packs, columns),
            recycler,
            recycled,
        })
    }

    fn next(&mut self) -> Result<Option<Piece>, RunError> {
        for batch in self.recycled.try_iter() {
            self.reader.recycle(batch);
        }
        let Some(batch) = self.reader.next()? else {
            return Ok(None);
        };
        Ok(Some(Piece {
            rows: batch.filled,
            keys: self.keys.next(batch.filled)?,
            values: Rows::Packed(batch),
        }))
    }
}

/// An artifact keeps no trailing counts, so it cannot tell with which ones these rows go on.
fn warn_of_counts(dataset: &Dataset, model: &Model) {
    let is_input = |name: &String| {
        model
            .schema()
            .inputs
            .iter()
            .any(|input| input.name == *name)
    };
    let goes_on = dataset
        .history
        .as_ref()
        .is_some_and(|history| history.earlier().next().is_some());
    let counts = dataset.trailing.iter().any(|spec| is_input(&spec.name));
    if counts && !goes_on && dataset.version() != model.data_version {
        tracing::warn!(
            "trailing counts of {} begin at zero, and an artifact keeps none to go on from; score with the \
             run, or import with --history",
            dataset.folder.display()
        );
    }
}

/// The columns of packed files that are passed through, row by row beside those that are scored.
struct KeyColumns {
    packs: std::vec::IntoIter<PackReader>,
    /// The file that is read, and its next block.
    open: Option<(PackReader, usize)>,
    /// The places of the columns, which may be of any role.
    places: Vec<usize>,
    columns: Vec<Column>,
    /// Rows that were read; those before `taken` were given out.
    block: Block,
    taken: usize,
}

impl KeyColumns {
    fn new(packs: Vec<PackReader>, columns: Vec<(usize, Column)>) -> Self {
        let (places, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        Self {
            packs: packs.into_iter(),
            open: None,
            block: Block::new(&columns),
            places,
            columns,
            taken: 0,
        }
    }

    /// The next `rows` rows, which there are.
    fn next(&mut self, rows: usize) -> Result<Vec<ArrayRef>, RunError> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        let mut piece = Block::new(&self.columns);
        while piece.rows < rows {
            if self.taken == self.block.rows {
                self.read_block()?;
            }
            let end = self.block.rows.min(self.taken + rows - piece.rows);
            for (to, from) in piece.columns.iter_mut().zip(&self.block.columns) {
                (self.taken..end).for_each(|row| to.push_row_of(from, row));
            }
            piece.rows += end - self.taken;
            self.taken = end;
        }
        let columns = self.columns.iter().zip(piece.columns);
        Ok(columns
            .map(|(column, values)| array(column, values))
            .collect())
    }

    fn read_block(&mut self) -> Result<(), RunError> {
        self.block.clear();
        self.taken = 0;
        loop {
            match &mut self.open {
                Some((pack, block)) if *block < pack.blocks() => {
                    pack.append_block(*block, &self.places, &mut self.block)?;
                    *block += 1;
                    return Ok(());
                }
                _ => {
                    let pack = self.packs.next().ok_or_else(|| {
                        RunError::Usage("the packed files changed while they were read".into())
                    })?;
                    self.open = Some((pack, 0));
                }
            }
        }
    }
}

fn key_type(column: &Column) -> DataType {
    match column.source {
        SourceType::Integer => DataType::Int64,
        _ => DataType::UInt64,
    }
}

fn field(column: &Column) -> Field {
    let of = match RawColumn::new(column.kind) {
        RawColumn::Dense(_) => DataType::Float32,
        RawColumn::Time(_) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        RawColumn::Key(_) if column.source == SourceType::Boolean => DataType::Boolean,
        RawColumn::Key(_) => key_type(column),
        RawColumn::KeyList { .. } => {
            DataType::List(Field::new_list_field(key_type(column), true).into())
        }
    };
    Field::new(&column.name, of, true)
}

/// Packed values as others read them: text is the hash that stands for it, missing is null.
fn array(column: &Column, values: RawColumn) -> ArrayRef {
    match values {
        RawColumn::Dense(values) => {
            let present: NullBuffer = values.iter().map(|value| !value.is_nan()).collect();
            Arc::new(Float32Array::new(values.into(), Some(present)))
        }
        RawColumn::Time(times) => {
            let present: NullBuffer = times.iter().map(|&time| time != MISSING_TIME).collect();
            let times = TimestampMillisecondArray::new(times.into(), Some(present));
            Arc::new(times.with_timezone("UTC"))
        }
        RawColumn::Key(keys) if column.source == SourceType::Boolean => {
            let truth = |key: u64| (key != MISSING_KEY).then_some(key == 1);
            Arc::new(keys.into_iter().map(truth).collect::<BooleanArray>())
        }
        RawColumn::Key(keys) => key_array(column, keys),
        RawColumn::KeyList { offsets, keys } => {
            let offsets: Vec<i32> = offsets.into_iter().map(|offset| offset as i32).collect();
            let element = Field::new_list_field(key_type(column), true).into();
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            Arc::new(ListArray::new(
                element,
                offsets,
                key_array(column, keys),
                None,
            ))
        }
    }
}

fn key_array(column: &Column, keys: Vec<u64>) -> ArrayRef {
    let present: NullBuffer = keys.iter().map(|&key| key != MISSING_KEY).collect();
    if column.source == SourceType::Integer {
        let values: Vec<i64> = keys.into_iter().map(u64::cast_signed).collect();
        Arc::new(Int64Array::new(values.into(), Some(present)))
    } else {
        Arc::new(UInt64Array::new(keys.into(), Some(present)))
    }
}
