use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use train_ops::{ForwardContext, RandomAccessFile};

use crate::{Error, Result};

/// The word embedding: a table with a row for each token. A batch needs a few of the rows.
///
/// A frozen table stays in the checkpoint's file, and its rows are read when they are needed, because the table
/// would take an eighth of git-base's memory.
#[derive(Debug)]
pub struct WordEmbedding(pub(crate) Words);

#[derive(Debug)]
pub(crate) enum Words {
    /// A table in memory: trained, on another device, or from a file whose tensors cannot be read row by row.
    Table(Tensor),
    /// A frozen table in the checkpoint's file.
    File(FileRows),
}

impl WordEmbedding {
    /// The rows of `ids` of any shape, `(number of ids, width)`.
    ///
    /// # Errors
    /// If an id is not in the vocabulary, or the file cannot be read.
    pub fn rows(&self, ids: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let ids = ids.flatten_all()?;
        match &self.0 {
            // The table of a tied head may be bf16.
            Words::Table(table) => Ok(ctx.parameter(table).index_select(&ids, 0)?.to_dtype(DType::F32)?),
            Words::File(file) => file.gather(&ids.to_dtype(DType::U32)?.to_vec1()?),
        }
    }
}

/// A matrix in a file, whose rows are read on demand and not kept in memory.
#[derive(Debug)]
pub(crate) struct FileRows {
    pub(crate) file: Arc<RandomAccessFile>,
    /// Offset of the matrix in bytes.
    pub(crate) start: u64,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// Type of the stored values.
    pub(crate) dtype: DType,
}

impl FileRows {
    fn gather(&self, ids: &[u32]) -> Result<Tensor> {
        let row = self.width * self.dtype.size_in_bytes();
        let mut bytes = Vec::with_capacity(ids.len() * row);
        for id in ids {
            let index = *id as usize;
            if index >= self.rows {
                return Err(Error::UnknownToken { id: *id, vocabulary: self.rows });
            }
            let start = self.start + (index * row) as u64;
            self.file.read_to(start..start + row as u64, &mut bytes)?;
        }
        let rows = Tensor::from_raw_buffer(&bytes, self.dtype, &[ids.len(), self.width], &Device::Cpu)?;
        Ok(rows.to_dtype(DType::F32)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::weights::Weights;

    #[test]
    fn rows_in_a_file_are_those_of_the_table() {
        for stored in [DType::F32, DType::F16, DType::BF16] {
            let folder = tempfile::tempdir().unwrap();
            let values: Vec<f32> = (0..35).map(|i| (i as f32 - 17.0) / 7.3).collect();
            let words = Tensor::from_vec(values, (7, 5), &Device::Cpu).unwrap().to_dtype(stored).unwrap();
            let other = Tensor::new(&[1f32, 2., 3.], &Device::Cpu).unwrap();
            let tensors = HashMap::from([("a", other.clone()), ("words", words.clone()), ("z", other)]);
            candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
            let weights = Weights::open(folder.path()).unwrap();
            assert!(weights.rows("a").unwrap().is_none() && weights.rows("b").unwrap().is_none());

            let file = WordEmbedding(Words::File(weights.rows("words").unwrap().unwrap()));
            let table = WordEmbedding(Words::Table(words.to_dtype(DType::F32).unwrap()));
            let ctx = ForwardContext::inference();
            let bits = |words: &WordEmbedding, ids: &Tensor| -> Vec<Vec<u32>> {
                let rows = words.rows(ids, &ctx).unwrap().to_vec2::<f32>().unwrap();
                rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
            };
            for ids in [vec![vec![0u32, 6, 3], vec![3, 3, 1]], vec![vec![5]], vec![vec![]]] {
                let ids = Tensor::new(ids, &Device::Cpu).unwrap();
                assert_eq!(bits(&file, &ids), bits(&table, &ids), "{stored:?}");
            }
            let unknown = file.rows(&Tensor::new(&[0u32, 7], &Device::Cpu).unwrap(), &ctx).unwrap_err();
            assert_eq!(unknown.to_string(), "token 7 does not exist: the model's vocabulary has 7");
        }
    }
}
