use candle_core::{DType, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::attention::softmax;
use crate::{AttentionMask, Dropout, Error, Pass, Result, attention, host};

/// The sequences that are decoded together: which picture each looks at, and where the keys and values of its tokens are.
///
/// Keys and values of a token stay where they were written. A sequence is a list of places, so that a beam that goes on
/// in two ways, or takes the place of another, costs two short lists instead of copies of what it has said.
#[derive(Clone, Debug)]
pub struct DecodingRows {
    rows: Vec<Row>,
    /// Places given out so far.
    used: usize,
}

#[derive(Clone, Debug)]
struct Row {
    picture: usize,
    places: Vec<usize>,
}

impl DecodingRows {
    /// One sequence without text for each picture.
    pub fn new(pictures: usize) -> Self {
        Self { rows: (0..pictures).map(|picture| Row { picture, places: Vec::new() }).collect(), used: 0 }
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Text tokens of each sequence.
    pub fn tokens(&self) -> usize {
        self.rows.first().map_or(0, |row| row.places.len())
    }

    /// Makes sequence `i` what sequence `parents[i]` was.
    pub fn reorder(&mut self, parents: &[usize]) {
        self.rows = parents.iter().map(|parent| self.rows[*parent].clone()).collect();
    }

    /// Gives places to `new` tokens of each sequence, those of the first one after another, then those of the second, and
    /// so on.
    pub fn extend(&mut self, new: usize) {
        for row in &mut self.rows {
            row.places.extend(self.used..self.used + new);
            self.used += new;
        }
    }
}

/// Keys and values of one attention layer in decoding: those of a picture's tokens once, whatever number of sequences
/// look at it, and those of the text where [`DecodingRows`] has given them places.
#[derive(Debug)]
pub struct KeyValueCache {
    /// `(pictures, prefix, width)`.
    image: [Tensor; 2],
    /// `(places, width)`.
    text: [Tensor; 2],
}

impl KeyValueCache {
    /// From keys and values of the pictures, `(pictures, prefix, width)`, with room for `places` text tokens of all
    /// sequences together.
    pub fn new(key: Tensor, value: Tensor, places: usize) -> Result<Self> {
        let (_, _, width) = key.dims3()?;
        if key.dims() != value.dims() {
            return Err(Error::Shape {
                path: "values of a cache".to_owned(),
                expected: format!("the shape of the keys, {:?}", key.dims()),
                got: value.dims().to_vec(),
            });
        }
        let text = || Tensor::zeros((places, width), key.dtype(), key.device());
        Ok(Self { text: [text()?, text()?], image: [key.contiguous()?, value.contiguous()?] })
    }

    /// Writes keys and values of new tokens, `(rows, new, width)`, to the places that `rows` gave them last.
    ///
    /// # Errors
    /// If these are not the tokens of all rows, or there is no room for them.
    pub fn write(&self, key: &Tensor, value: &Tensor, rows: &DecodingRows) -> Result<()> {
        let (count, new, width) = key.dims3()?;
        let start = rows.used.checked_sub(count * new);
        let Some(start) = start.filter(|_| count == rows.len() && new <= rows.tokens()) else {
            return Err(Error::Shape {
                path: "new tokens of a cache".to_owned(),
                expected: format!("({}, at most {}, {width})", rows.len(), rows.tokens()),
                got: key.dims().to_vec(),
            });
        };
        for (buffer, values) in self.text.iter().zip([key, value]) {
            buffer.slice_set(&values.reshape((count * new, width))?.contiguous()?, 0, start)?;
        }
        Ok(())
    }

    /// Keys and values of all that the sequences have, `(rows, prefix + tokens, width)`.
    fn gather(&self, rows: &DecodingRows) -> Result<[Tensor; 2]> {
        let device = self.image[0].device();
        let pictures: Vec<u32> = rows.rows.iter().map(|row| row.picture as u32).collect();
        let places: Vec<u32> =
            rows.rows.iter().flat_map(|row| &row.places).map(|place| *place as u32).collect();
        let (pictures, places) = (Tensor::new(pictures, device)?, Tensor::new(places, device)?);
        let gather = |image: &Tensor, text: &Tensor| {
            let text = text.index_select(&places, 0)?.reshape((rows.len(), rows.tokens(), ()))?;
            Tensor::cat(&[&image.index_select(&pictures, 0)?, &text], 1)
        };
        Ok([gather(&self.image[0], &self.text[0])?, gather(&self.image[1], &self.text[1])?])
    }
}

/// Attention of the newest tokens of each sequence, `query` of shape `(rows, new, heads * head_dim)`, over the tokens of its
/// picture and its own up to themselves: [`attention`] in inference, without a copy of what is cached.
pub fn cached_attention(
    query: &Tensor,
    cache: &KeyValueCache,
    rows: &DecodingRows,
    heads: usize,
) -> Result<Tensor> {
    let (count, new, width) = query.dims3()?;
    let (pictures, prefix, cached) = cache.image[0].dims3()?;
    let places = cache.text[0].dim(0)?;
    if rows.used > places || rows.rows.iter().any(|row| row.picture >= pictures) {
        return Err(Error::Shape {
            path: "cache of cached_attention".to_owned(),
            expected: format!("{} places, and every picture that a sequence looks at", rows.used),
            got: vec![places, pictures],
        });
    }
    let past = rows.tokens().checked_sub(new).filter(|_| count == rows.len());
    let (Some(past), true) = (past, cached == width && heads > 0 && width.is_multiple_of(heads)) else {
        return Err(Error::Shape {
            path: "query of cached_attention".to_owned(),
            expected: format!("({}, at most {}, {cached})", rows.len(), rows.tokens()),
            got: query.dims().to_vec(),
        });
    };
    if !host::is_host_f32(query) || cache.image[0].dtype() != DType::F32 {
        let [key, value] = cache.gather(rows)?;
        let mask = AttentionMask::CausalAfterPrefix { prefix, first_query: prefix + past };
        let none = Dropout::new("", 0.0)?;
        return attention(query, &key, &value, heads, mask, &none, &Pass::inference());
    }
    let query = query.contiguous()?;
    let views = [&query, &cache.image[0], &cache.image[1], &cache.text[0], &cache.text[1]];
    let views = views.map(Tensor::storage_and_layout);
    let [query, image_keys, image_values, text_keys, text_values] = &views;
    let query = host::values(query)?;
    let image = [host::values(image_keys)?, host::values(image_values)?];
    let text = [host::values(text_keys)?, host::values(text_values)?];
    let head_dim = width / heads;
    let columns = head_dim * heads_together(count * new, heads);
    let keys = prefix + rows.tokens();
    let mut context = vec![0.0; query.len()];
    context.par_chunks_mut(columns.max(1)).zip(query.par_chunks(columns.max(1))).enumerate().for_each_init(
        || vec![0.0; keys * heads],
        |scores, (index, (context, query))| {
            let first = index * columns;
            let (token, column) = (first / width, first % width);
            let row = &rows.rows[token / new];
            let places = &row.places[..past + token % new + 1];
            let image = image.map(|all| &all[row.picture * prefix * width..][..prefix * width]);
            attend(query, image, text, places, width, column, head_dim, scores, context);
        },
    );
    Ok(Tensor::from_vec(context, (count, new, width), &candle_core::Device::Cpu)?)
}

/// Heads that a task works on, of each of `queries`: all where that leaves enough tasks, as keys and values then come from
/// memory in the order they lie there.
fn heads_together(queries: usize, heads: usize) -> usize {
    let wanted = 2 * rayon::current_num_threads();
    let parts = (1..=heads).find(|parts| heads.is_multiple_of(*parts) && queries * parts >= wanted);
    heads / parts.unwrap_or(heads)
}

/// Some heads of one query: the columns from `column` on, as many as the query has, of keys and values of `width`. Each
/// key and each value is read once, for all of the heads.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2+fma"))]
#[allow(clippy::too_many_arguments)]
fn attend(
    query: &[f32],
    image: [&[f32]; 2],
    text: [&[f32]; 2],
    places: &[usize],
    width: usize,
    column: usize,
    head_dim: usize,
    scores: &mut [f32],
    context: &mut [f32],
) {
    let scale = 1.0 / (head_dim as f32).sqrt();
    let of_image = |at: usize| image[at].chunks_exact(width).map(|row| &row[column..column + query.len()]);
    let of_text =
        |at: usize| places.iter().map(move |place| &text[at][place * width + column..][..query.len()]);
    let keys = image[0].len() / width + places.len();
    for (at, key) in of_image(0).chain(of_text(0)).enumerate() {
        let heads = query.chunks_exact(head_dim).zip(key.chunks_exact(head_dim));
        for (score, (query, key)) in scores[at..].iter_mut().step_by(keys).zip(heads) {
            *score = scale * dot(query, key);
        }
    }
    for scores in scores.chunks_exact_mut(keys).take(query.len() / head_dim) {
        softmax(scores, keys);
    }
    for (at, value) in of_image(1).chain(of_text(1)).enumerate() {
        let heads = context.chunks_exact_mut(head_dim).zip(value.chunks_exact(head_dim));
        for (score, (context, value)) in scores[at..].iter().step_by(keys).zip(heads) {
            add(*score, value, context);
        }
    }
}

/// `Σ a b`, in lanes that compilers vectorise.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    let mut half = 8;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0] + rest
}

/// `sum += factor * xs`.
#[inline(always)]
fn add(factor: f32, xs: &[f32], sum: &mut [f32]) {
    for (sum, x) in sum.iter_mut().zip(xs) {
        *sum += factor * x;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::sample_key;

    fn values(seed: u64, shape: (usize, usize, usize)) -> Tensor {
        let count = (shape.0 * shape.1 * shape.2) as u64;
        let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 22) as f32 - 2.0;
        Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    }

    fn list(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A prompt of two tokens, then beams that fork, swap and end; the newest tokens' attention is that over gathered
    /// copies of all keys and values.
    #[test]
    fn it_is_attention_over_what_each_sequence_has_said() {
        let (prefix, heads, width) = (7, 3, 3 * 20);
        let cache =
            KeyValueCache::new(values(1, (2, prefix, width)), values(2, (2, prefix, width)), 20).unwrap();
        let mut rows = DecodingRows::new(2);
        for (step, parents) in
            [(0, None), (1, Some(vec![0, 0, 1, 1])), (2, Some(vec![1, 0, 3, 3])), (3, Some(vec![2, 3]))]
        {
            if let Some(parents) = parents {
                rows.reorder(&parents);
            }
            let new = if step == 0 { 2 } else { 1 };
            rows.extend(new);
            let of = |seed: u64| values(10 * step + seed, (rows.len(), new, width));
            cache.write(&of(3), &of(4), &rows).unwrap();
            let got = cached_attention(&of(5), &cache, &rows, heads).unwrap();

            let [key, value] = cache.gather(&rows).unwrap();
            assert_eq!(key.dims(), [rows.len(), prefix + rows.tokens(), width]);
            let first_query = prefix + rows.tokens() - new;
            let mask = AttentionMask::CausalAfterPrefix { prefix, first_query };
            let none = Dropout::new("", 0.0).unwrap();
            let expected = attention(&of(5), &key, &value, heads, mask, &none, &Pass::inference()).unwrap();
            for (got, expected) in list(&got).iter().zip(list(&expected)) {
                assert!((got - expected).abs() < 1e-6, "step {step}: {got}, not {expected}");
            }
        }
    }

    #[test]
    fn a_sequence_keeps_what_it_said_when_others_take_its_row() {
        let mut rows = DecodingRows::new(1);
        rows.extend(1);
        rows.reorder(&[0, 0]);
        rows.extend(1);
        rows.reorder(&[1, 0]);
        rows.extend(1);
        assert_eq!(rows.rows[0].places, [0, 2, 3]);
        assert_eq!(rows.rows[1].places, [0, 1, 4]);
    }

    #[test]
    fn a_query_of_another_shape_is_refused() {
        let cache = KeyValueCache::new(values(1, (1, 3, 8)), values(2, (1, 3, 8)), 4).unwrap();
        let mut rows = DecodingRows::new(1);
        rows.extend(1);
        for shape in [(2, 1, 8), (1, 2, 8), (1, 1, 6)] {
            assert!(cached_attention(&values(3, shape), &cache, &rows, 2).is_err(), "{shape:?}");
        }
        assert!(cached_attention(&values(3, (1, 1, 8)), &cache, &rows, 3).is_err(), "3 heads of 8");
        let two_pictures = DecodingRows::new(2);
        assert!(
            cached_attention(&values(3, (2, 0, 8)), &cache, &two_pictures, 2).is_err(),
            "a picture too many"
        );
        rows.extend(4);
        assert!(cached_attention(&values(3, (1, 1, 8)), &cache, &rows, 2).is_err(), "5 tokens, 4 places");
    }

    #[test]
    fn only_tokens_of_all_sequences_are_written() {
        let cache = KeyValueCache::new(values(1, (3, 3, 8)), values(2, (3, 3, 8)), 12).unwrap();
        let mut rows = DecodingRows::new(3);
        rows.extend(1);
        for shape in [(2, 1, 8), (3, 2, 8), (4, 1, 8)] {
            let error = cache.write(&values(3, shape), &values(4, shape), &rows).unwrap_err().to_string();
            assert!(error.contains("new tokens of a cache"), "{shape:?}: {error}");
        }
        assert!(cache.write(&values(3, (3, 1, 8)), &values(4, (3, 1, 8)), &rows).is_ok());
    }
}
