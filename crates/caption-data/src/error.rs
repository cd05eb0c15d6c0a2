use std::path::PathBuf;

/// The errors of this crate. Each message names the place and a remedy. A cause that is an error itself is the
/// `source()` and is not repeated in the text, so print the whole chain, as `anyhow` does with `{:#}`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Files
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A configuration file that is not valid JSON, or not of the expected form.
    #[error("{} cannot be used", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The fault and its position.
        source: serde_json::Error,
    },
    /// A parquet file is broken or cut short.
    #[error("{}: {why}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The error of the parquet reader.
        why: String,
    },
    /// A parquet file, in a build without the feature that reads them.
    #[error("{} is a parquet file, which this build does not read: build with `--features parquet`", path.display())]
    ParquetNotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// A file whose name ends in `.parquet` and that is of another kind, or incomplete.
    #[error("{}: {why}", path.display())]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// The kind of file that it is, and advice.
        why: String,
    },
    /// A tar file is broken or cut short, or its files are no samples.
    #[error("{}: {why}", path.display())]
    Tar {
        /// The file.
        path: PathBuf,
        /// The fault, with the sample.
        why: String,
    },
    /// An Arrow file is broken or cut short.
    #[error("{}: {why}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// The error of the Arrow reader.
        why: String,
    },
    /// An Arrow file, in a build without the feature that reads them.
    #[error(
        "{} is an Arrow file, which this build does not read: build with `--features arrow`, or make a parquet file of \
         the dataset, in Python with `datasets.load_from_disk(FOLDER).to_parquet(\"train.parquet\")`",
        path.display()
    )]
    ArrowNotBuilt {
        /// The file.
        path: PathBuf,
    },

    // Datasets
    /// A dataset without rows, or a path that is not a dataset.
    #[error("{dataset}: no captioned pictures found; {why}")]
    NoRows {
        /// Its name or path.
        dataset: String,
        /// The reason: the files that are supported, or those that the path has.
        why: String,
    },
    /// A folder whose parquet files are not one whole training split.
    #[error("{dataset}: {refusal}")]
    Selection {
        /// Its path.
        dataset: String,
        /// The fault.
        refusal: crate::selection::Refusal,
    },
    /// A dataset in which all captions are blank.
    #[error(
        "{dataset}: column `{column}` is empty in all {rows} rows; name the column that holds the captions"
    )]
    NoCaptions {
        /// Its name.
        dataset: String,
        /// The column.
        column: String,
        /// The number of rows.
        rows: usize,
    },
    /// A file without a requested column.
    #[error("{}: no column `{column}` for the {role}; there are: {}", path.display(), available.join(", "))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The content that the column should have.
        role: crate::ColumnRole,
        /// The column asked for.
        column: String,
        /// The columns it has.
        available: Vec<String>,
    },
    /// A file in which no column has a name that identifies it.
    #[error("{}: none of its columns is known to hold the {role}: {}; name it", path.display(), available.join(", "))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The content that the column should have.
        role: crate::ColumnRole,
        /// The columns it has.
        available: Vec<String>,
    },
    /// A file in which several columns could be the one to read.
    #[error("{}: more than one column could hold the {role}: {}; name one of them", path.display(), candidates.join(", "))]
    AmbiguousColumns {
        /// The file.
        path: PathBuf,
        /// The content that the column should have.
        role: crate::ColumnRole,
        /// The columns that could be meant.
        candidates: Vec<String>,
    },
    /// A folder that has no columns, although one was requested.
    #[error(
        "{}: no column `{column}` for the {role}: the captions are in text files, which have no columns; leave the name \
         out, or write a metadata.jsonl", path.display()
    )]
    NoTable {
        /// The folder.
        path: PathBuf,
        /// The content that the column should have.
        role: crate::ColumnRole,
        /// The column asked for.
        column: String,
    },
    /// A column of the wrong type.
    #[error("{}: column `{column}` should hold {expected}, it holds {found}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The expected type.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// A record of a metadata file that cannot be used.
    #[error("{}, {place}: {why}", path.display())]
    Metadata {
        /// The metadata file.
        path: PathBuf,
        /// Where the record stands in it.
        place: crate::RecordPlace,
        /// Its fault.
        why: String,
    },
    /// A text file in an unsupported encoding.
    #[error("{}, line {line}: not UTF-8 text: {why}; save the file as UTF-8", path.display())]
    TextEncoding {
        /// The file.
        path: PathBuf,
        /// The first line that is not UTF-8, counted from 1.
        line: usize,
        /// The encoding or the bytes found instead.
        why: String,
    },
    /// A file of a dataset that was cloned without Git LFS.
    #[error("{} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A picture without a text file, in a folder in which other pictures have one.
    #[error("it has no caption: {} does not exist", caption.display())]
    NoCaptionFile {
        /// Where its caption should be.
        caption: PathBuf,
    },
    /// Rows that cannot be split in the requested way.
    #[error("cannot split {rows} rows: {why}")]
    Split {
        /// The number of rows.
        rows: usize,
        /// The fault.
        why: String,
    },

    // Rows
    /// A row that the dataset does not have.
    #[error("{dataset} has {len} rows, row {row} was requested (rows count from 0)")]
    RowOutOfRange {
        /// Name of the dataset.
        dataset: String,
        /// The requested row.
        row: usize,
        /// The number of rows.
        len: usize,
    },
    /// A row that cannot be used, and why.
    #[error("row {row} of {dataset} cannot be used")]
    Row {
        /// Name of the dataset, or the row's file in it.
        dataset: String,
        /// The row, counted from 0.
        row: usize,
        /// Its fault.
        source: Box<Error>,
    },
    /// A caption that is null, empty or white space.
    #[error("the caption is blank; write one or leave the row out")]
    BlankCaption,
    /// A prompt that is null, empty or white space.
    #[error("the prompt is blank; write one or leave the row out")]
    BlankPrompt,
    /// A caption that is not UTF-8.
    #[error("the caption is not UTF-8 text")]
    CaptionEncoding,
    /// A picture's file that could not be read; the row's error has its path.
    #[error("its file cannot be read")]
    UnreadableFile {
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A row with the path of a picture that does not exist.
    #[error(
        "the row holds only the path of its picture, and {} cannot be read; put the pictures there, or name \
         their own folder, with a metadata.jsonl of file_name and text in it",
        path.display()
    )]
    NoPictureFile {
        /// Where it should be: its path, which is relative to the table's folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A row with neither the bytes of a picture nor the path of one.
    #[error("there is no picture: its bytes are null")]
    NoPicture,

    // Pictures
    /// A file that is not a picture of a supported format, or a broken or too large one.
    #[error(transparent)]
    Picture(#[from] image_pixels::Error),
    /// A picture without pixels, or one that without a crop would be too large after resizing.
    #[error("the picture cannot be resized: {why}")]
    PictureSize {
        /// Its size, and that after resizing.
        why: String,
    },
    /// Pictures of different sizes, which cannot be one tensor.
    #[error(
        "pictures of one batch have {} x {} and {} x {} pixels after processing; give the image processor a crop size",
        first.0, first.1, other.0, other.1
    )]
    DifferentSizes {
        /// Width and height of the first.
        first: (u32, u32),
        /// Width and height of one that differs.
        other: (u32, u32),
    },

    // Checkpoint files
    /// An option that this crate does not implement.
    #[error("{}: `{option}` is {value}, supported: {supported}", path.display())]
    UnsupportedOption {
        /// The file.
        path: PathBuf,
        /// Name of the option.
        option: String,
        /// Its value there.
        value: String,
        /// The supported values.
        supported: &'static str,
    },
    /// A step of an image processor that is out of range.
    #[error("image processor: {option} is {got}, supported: {supported}")]
    ProcessorOption {
        /// The step.
        option: &'static str,
        /// Its value.
        got: String,
        /// The supported values.
        supported: &'static str,
    },
    /// A row that has no class label, or several.
    #[error("{dataset}, row {row} (from 0): {labels} class labels, and exactly one is needed")]
    LabelCount {
        /// The dataset.
        dataset: String,
        /// The row.
        row: usize,
        /// How many labels it has.
        labels: usize,
    },
    /// A tokenizer file that cannot be used.
    #[error("{}: {why}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Its fault.
        why: String,
    },

    // Tokens and batches
    /// A caption that the tokenizer cannot encode.
    #[error("cannot tokenize {caption:?}: {why}")]
    Encode {
        /// The caption.
        caption: String,
        /// The tokenizer's message.
        why: String,
    },
    /// Ids that the tokenizer cannot turn into text.
    #[error("cannot decode the ids {ids:?}: {why}")]
    DecodeIds {
        /// The ids.
        ids: Vec<u32>,
        /// The tokenizer's message.
        why: String,
    },
    /// A caption longer than its batch.
    #[error(
        "a caption has {tokens} tokens, the batch has room for {max}; raise the maximum or truncate captions"
    )]
    CaptionTooLong {
        /// Tokens of the caption.
        tokens: usize,
        /// Length of the batch.
        max: usize,
    },
    /// A caption that is shorter than the prompt that it should begin with.
    #[error("a caption of {caption} tokens cannot begin with a prompt of {tokens}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the caption, those of the prompt included.
        caption: usize,
    },
    /// A batch with different numbers of captions and rows.
    #[error("a batch of {captions} captions was given {rows} rows")]
    BatchLengths {
        /// The number of rows.
        rows: usize,
        /// The number of captions.
        captions: usize,
    },

    // Threads
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread {
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The function that a prefetching thread ran panicked.
    #[error("a prefetching thread panicked")]
    WorkerPanicked,

    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
