//! Image features that the processes of a job compute together, each a part of them, and share through a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use caption_data::PictureLoader;
use caption_model::CaptionModel;
use tempfile::{Builder, TempDir};

use super::files::Files;
use super::store::missing;
use super::{CachePlace, FeatureStore, Layout};
use crate::captioning::ENCODER_BATCH;
use crate::distributed::Team;

/// The beginning of the name of a folder in which the processes of a job share features.
const FOLDER: &str = ".features-";

/// Removes the folders of shared features that killed jobs have left in `scratch`, which no other job uses now.
pub(crate) fn remove_leftovers(scratch: &Path) {
    let entries = fs::read_dir(scratch).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER)) {
        // Harmless if it cannot be removed.
        let _ = fs::remove_dir_all(entry.path());
    }
}

impl FeatureStore {
    /// As [`new`](Self::new), with the encoder's work divided among the processes of a job. They find each other's features in
    /// the cache folder, else in a folder in [`CachePlace::scratch`], which is removed again. All of them must see the same
    /// files there.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if a process of the job is lost.
    pub fn shared(
        model: &dyn CaptionModel,
        pictures: &PictureLoader,
        rows: &[usize],
        layout: Layout,
        place: &CachePlace,
        team: &Team,
    ) -> Result<Self> {
        let rows = keyed(pictures, rows, place.between_runs.is_some(), team)?;
        let (place, job_folder) = of_job(place, team)?;
        // The first process determines which features are missing, because the others might already see new
        // files.
        let (own, damaged) = if team.leads() {
            let wanted = rows.iter().map(|(_, picture)| *picture).collect();
            let (files, damaged) = Files::open(&place, layout, &wanted)?;
            (Some(missing(&rows, &files)), damaged)
        } else {
            (None, Vec::new())
        };
        let missing: Vec<(usize, u128)> = team.share(own)?;
        // In whole batches, so that the encoder computes the same ones with any number of processes.
        let batches: Vec<_> = missing.chunks(ENCODER_BATCH).collect();
        let part = batches[team.workers.share(batches.len())].concat();
        let to_files = CachePlace { memory: 0, ..place.clone() };
        let _files = Self::encoded_by(model, pictures, &part, layout, &to_files)?;
        team.meet()?;

        let mut store = Self::encoded_by(model, pictures, &rows, layout, &place)?;
        (store.encoded, store.damaged) = (missing.len(), damaged);
        store.found = match (store.found, &job_folder) {
            (Some((count, dir)), None) => Some((count - missing.len().min(count), dir)),
            _ => None,
        };
        // On one machine, an open file keeps its content without a name. Features in memory need no file.
        team.meet()?;
        let must_stay = store.is_in_files() && !team.is_on_one_machine();
        store.job_folder = job_folder.flatten().filter(|_| must_stay);
        Ok(store)
    }
}

/// The rows in ascending order, each with the fingerprint of its picture: of its content for a folder `between_runs`, else its
/// number. The processes divide the work.
fn keyed(
    pictures: &PictureLoader,
    rows: &[usize],
    between_runs: bool,
    team: &Team,
) -> Result<Vec<(usize, u128)>> {
    let sorted: Vec<usize> = rows.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let fingerprint = |row: usize| if between_runs { pictures.fingerprint(row) } else { Ok(row as u128) };
    let own = sorted[team.workers.share(sorted.len())].iter();
    let own = own.map(|row| Ok((*row, fingerprint(*row)?))).collect::<Result<Vec<_>>>()?;
    Ok(team.gather(&own)?.concat())
}

/// The place with a folder that all processes see. If it is one of this job, also its guard, which the first process has.
fn of_job(place: &CachePlace, team: &Team) -> Result<(CachePlace, Option<Option<TempDir>>)> {
    if place.between_runs.is_some() {
        return Ok((place.clone(), None));
    }
    let make = || {
        let folder = Builder::new().prefix(FOLDER).tempdir_in(&place.scratch);
        folder.with_context(|| {
            format!("cannot make a folder for image features in {}", place.scratch.display())
        })
    };
    let folder = team.leads().then(make).transpose()?;
    let path: PathBuf = team.share(folder.as_ref().map(|folder| folder.path().to_owned()))?;
    Ok((CachePlace { between_runs: Some((path, 0)), ..place.clone() }, Some(folder)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use caption_model::LoadOptions;
    use monster_drawings::DrawingSource;
    use train_ops::FrozenBuilder;
    use trainer_core::ThreadWorkers;

    use super::*;
    use crate::captioning::pictures;
    use crate::open::{Pretrained, pretrained};

    /// The features of 20 drawings as bytes, and the number that had to be encoded, from each of `count` processes.
    fn features(count: usize, folder: &Path, memory: usize, cache: Option<&Path>) -> Vec<(Vec<u8>, usize)> {
        let rows: Vec<usize> = (0..20).rev().collect();
        let place = CachePlace {
            memory,
            between_runs: cache.map(|cache| (cache.to_owned(), 7)),
            scratch: folder.to_owned(),
        };
        let compute = |workers: ThreadWorkers| {
            let Pretrained { checkpoint, processor, .. } = pretrained(&"embedded".parse().unwrap()).unwrap();
            let layout =
                Layout::new(checkpoint.caption_config().feature_shape(), candle_core::DType::F32, None);
            let model = checkpoint.load_model(&mut FrozenBuilder, &LoadOptions::default()).unwrap();
            let source: Arc<dyn caption_data::CaptionSource> = Arc::new(DrawingSource::default());
            let loader = pictures(&source, &processor);
            let store = match count {
                1 => FeatureStore::new(model.as_ref(), &loader, &rows, layout, &place),
                _ => FeatureStore::shared(model.as_ref(), &loader, &rows, layout, &place, &Team::of(workers)),
            };
            let store = store.unwrap();
            let mut bytes = Vec::new();
            store.batch(&rows).unwrap().write_bytes(&mut bytes).unwrap();
            (bytes, store.encoded())
        };
        thread::scope(|scope| {
            let workers = ThreadWorkers::new(count).into_iter();
            let threads: Vec<_> = workers.map(|worker| scope.spawn(|| compute(worker))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn what_killed_jobs_have_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [".features-x1", ".features-x2", "features", ".other"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), "").unwrap();
        }
        remove_leftovers(folder.path());
        remove_leftovers(&at("none"));
        assert!(!at(".features-x1").exists() && !at(".features-x2").exists());
        assert!(at("features/file").exists() && at(".other/file").exists());
    }

    #[test]
    fn processes_share_the_features_that_one_computes_and_leave_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let alone = features(1, folder.path(), usize::MAX, None).remove(0);
        assert_eq!(alone.1, 20);
        for (count, memory) in [(2, usize::MAX), (4, usize::MAX), (3, 0)] {
            for process in features(count, folder.path(), memory, None) {
                assert!(process == alone, "{count} processes, {memory} bytes of memory");
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        // With a cache folder, each picture is encoded once, and later runs find all of them.
        let cache = folder.path().join("cache");
        let first = features(3, folder.path(), usize::MAX, Some(&cache));
        let second = features(2, folder.path(), 0, Some(&cache));
        assert!(first.iter().all(|process| *process == alone));
        assert!(second.iter().all(|(bytes, encoded)| *bytes == alone.0 && *encoded == 0));
    }
}
