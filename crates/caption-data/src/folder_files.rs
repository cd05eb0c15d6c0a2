//! The files of an image folder: pictures, files that describe them, and files that are left out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::walk::{Files, add_unread_pictures, has_extension, is_archive, is_picture, name_in, walk};
use crate::{LeftOut, LeftOutReason, Result, selection};

/// The files of a folder's training split.
pub(crate) struct FolderFiles {
    folder: PathBuf,
    pub(crate) pictures: Vec<PathBuf>,
    /// At most one per folder.
    pub(crate) metadata: Vec<PathBuf>,
    /// All other files.
    others: Vec<PathBuf>,
    why_not: Box<selection::WhyNot>,
    pub(crate) left_out: LeftOut,
}

impl FolderFiles {
    /// Finds the files of a folder and chooses those of its training split.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        Ok(Self::choose(folder, walk(folder)?))
    }

    /// Chooses those of the training split among all files of a folder.
    pub(crate) fn choose(folder: &Path, Files { mut paths, mut left_out }: Files) -> Self {
        // There may be millions of files, so the names are not kept.
        let why_not = selection::why_not_of_names(paths.iter().map(|file| name_in(folder, file)));
        let (mut metadata, mut others) = (Vec::new(), Vec::new());
        paths.retain_mut(|path| {
            let name = name_in(folder, path);
            match why_not(&name) {
                Some(reason) if is_picture(path) => left_out.add(reason, name),
                Some(_) => {}
                None if is_picture(path) => return true,
                None if selection::is_metadata(&name) => metadata.push(std::mem::take(path)),
                None => others.push(std::mem::take(path)),
            }
            false
        });
        let mut this =
            Self { folder: folder.to_owned(), pictures: paths, metadata, others, why_not, left_out };
        add_unread_pictures(folder, &this.others, &mut this.left_out);
        this.choose_metadata();
        this
    }

    /// The pictures that one metadata file describes, in its folder and in those below.
    pub(crate) fn of_metadata(metadata: &Path) -> Result<Self> {
        // The path of a file in the current folder has no folder part.
        let folder = metadata.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        Ok(Self {
            metadata: vec![folder.join(metadata.file_name().unwrap_or_default())],
            ..Self::find(folder)?
        })
    }

    /// Keeps one metadata file per folder. If there is none at all, files called `metadata.json` are used,
    /// provided that they hold an array.
    fn choose_metadata(&mut self) {
        if self.metadata.is_empty() {
            self.metadata = self.others.iter().filter(|path| is_json_metadata(path)).cloned().collect();
            return;
        }
        let rank = |path: &Path| selection::METADATA.iter().position(|name| path.ends_with(name));
        let all = std::mem::take(&mut self.metadata);
        for path in &all {
            let of_its_folder = all.iter().filter(|other| other.parent() == path.parent());
            if of_its_folder.min_by_key(|other| rank(other)) == Some(path) {
                self.metadata.push(path.clone());
            } else {
                self.left_out.add(LeftOutReason::OtherMetadata, name_in(&self.folder, path));
            }
        }
    }

    /// The reason why a picture that metadata name is not trained on; `None` if it is.
    pub(crate) fn why_not(&self, picture: &Path) -> Option<LeftOutReason> {
        (self.why_not)(&name_in(&self.folder, picture))
    }

    /// Counts a file of this folder as left out.
    pub(crate) fn leave_out(&mut self, reason: LeftOutReason, path: &Path) {
        self.left_out.add(reason, name_in(&self.folder, path));
    }

    /// The caption files, by their paths without the extension. If several have the same name, the first is the
    /// one to read.
    pub(crate) fn caption_files(&self) -> BTreeMap<PathBuf, Vec<PathBuf>> {
        let mut files: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for extension in selection::CAPTIONS {
            for text in self.others.iter().filter(|path| has_extension(path, &[extension])) {
                files.entry(text.with_extension("")).or_default().push(text.clone());
            }
        }
        files
    }

    /// Whether a metadata file is in the folder of a picture or in one above it.
    pub(crate) fn is_described(&self, picture: &Path) -> bool {
        let mut folders = self.metadata.iter().filter_map(|file| file.parent());
        folders.any(|folder| picture.starts_with(folder))
    }

    /// Each picture with the text file of the same name beside it, in the order of the pictures; empty if no
    /// picture has one. The text files of other files are left out; that of a picture in an unsupported format
    /// is left out with its picture.
    pub(crate) fn captioned(&mut self) -> Vec<(PathBuf, Option<PathBuf>)> {
        let captions = self.caption_files();
        let stems: HashSet<PathBuf> = self.pictures.iter().map(|path| path.with_extension("")).collect();
        for (stem, texts) in &captions {
            if stems.contains(stem) {
                for text in texts.iter().skip(1) {
                    self.left_out.add(LeftOutReason::OtherCaptionFile, name_in(&self.folder, text));
                }
                continue;
            }
            let is_beside = |other: &&PathBuf| {
                !has_extension(other, &selection::CAPTIONS) && other.with_extension("") == *stem
            };
            let beside: Vec<&PathBuf> = self.others.iter().filter(is_beside).collect();
            // The picture has been counted as one that is not read.
            if beside.iter().any(|other| has_extension(other, &selection::UNREAD_PICTURES)) {
                continue;
            }
            for caption in texts {
                let caption = name_in(&self.folder, caption);
                match beside.first() {
                    Some(other) => {
                        let names = format!("{caption} beside {}", name_in(&self.folder, other));
                        self.left_out.add(LeftOutReason::NotAPicture, names);
                    }
                    None => self.left_out.add(LeftOutReason::NoPicture, caption),
                }
            }
        }
        let caption = |picture: &PathBuf| captions.get(&picture.with_extension(""))?.first().cloned();
        let with_texts = self.pictures.iter().map(|picture| (picture.clone(), caption(picture)));
        let with_texts: Vec<_> = with_texts.collect();
        if with_texts.iter().any(|(_, text)| text.is_some()) { with_texts } else { Vec::new() }
    }

    /// Why the folder has no rows: the files that were found, and those that are needed.
    pub(crate) fn nothing_found(&self) -> String {
        let mut why = Vec::new();
        let archives = self.others.iter().filter(|path| is_archive(path));
        let archives: BTreeSet<String> = archives.map(|path| name_in(&self.folder, path)).collect();
        if !archives.is_empty() {
            why.push(format!("archives are not read: unpack {}", few(&archives)));
        }
        if self.metadata.is_empty() && !self.pictures.is_empty() {
            why.push(self.uncaptioned());
        }
        why.push(format!(
            "expected parquet files, {}, or pictures beside .{} files, outside of folders of held-out splits (such as test)",
            selection::METADATA.join(", "),
            selection::CAPTIONS.join(" or .")
        ));
        if !self.left_out.is_empty() {
            let groups: Vec<String> = self.left_out.groups().map(ToString::to_string).collect();
            why.push(format!("left out are {}", groups.join("; ")));
        }
        why.join("; ")
    }

    /// The pictures of a folder without captions, for a message.
    fn uncaptioned(&self) -> String {
        let names: BTreeSet<String> = self.pictures.iter().map(|path| name_in(&self.folder, path)).collect();
        let folder = |name: &String| name.split_once('/').map(|(folder, _)| folder.to_owned());
        let folders: BTreeSet<String> = names.iter().filter_map(folder).collect();
        match folders.is_empty() {
            true => format!("pictures without captions: {} ({})", names.len(), few(&names)),
            false => format!(
                "pictures without captions: {} in folders named {} (a folder's name, such as a class, is not read as a \
                 caption)",
                names.len(),
                few(&folders)
            ),
        }
    }
}

/// The first names.
fn few(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    shown.join(", ") + if names.len() > SHOWN { ", ..." } else { "" }
}

/// Whether a file is called `metadata.json` and holds an array. Other programs write objects to files of this
/// name.
fn is_json_metadata(path: &Path) -> bool {
    let mut start = Vec::new();
    path.ends_with("metadata.json")
        && File::open(path).is_ok_and(|file| file.take(256).read_to_end(&mut start).is_ok())
        && start.iter().find(|byte| byte.is_ascii_graphic()) == Some(&b'[')
}
