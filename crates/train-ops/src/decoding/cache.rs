use candle_core::Tensor;
use rayon::prelude::*;

use super::DecodingRows;
use crate::kernels::{Columns, Isa, Panels};
use crate::{Error, Result, host};

/// Keys and values of one attention layer in decoding: those of a picture's tokens once, whatever number of sequences
/// look at it, and those of the text where [`DecodingRows`] has given them places.
#[derive(Debug)]
pub struct KeyValueCache {
    pub(super) heads: usize,
    pub(super) pictures: usize,
    /// A picture's tokens.
    pub(super) prefix: usize,
    pub(super) width: usize,
    pub(super) image: Image,
    /// `(places, width)`.
    pub(super) text: [Tensor; 2],
}

/// Keys and values of the pictures.
#[derive(Debug)]
pub(super) enum Image {
    /// As products read them: the transposed keys, with the scale of attention in them, and the values of each head, those of
    /// the first picture, then those of the second, and so on.
    Packed(Vec<[Panels; 2]>),
    /// `(pictures, prefix, width)`, on other devices and of other types.
    Plain([Tensor; 2]),
}

impl KeyValueCache {
    /// From keys and values of the pictures, `(pictures, prefix, heads * head_dim)`, with room for `places` text tokens of
    /// all sequences together.
    ///
    /// # Errors
    /// If the shapes are not those.
    pub fn new(key: &Tensor, value: &Tensor, heads: usize, places: usize) -> Result<Self> {
        let (pictures, prefix, width) = key.dims3()?;
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(Error::Shape {
                path: "keys of a cache".to_owned(),
                expected: format!("(pictures, tokens, a multiple of {heads} heads)"),
                got: key.dims().to_vec(),
            });
        }
        if key.dims() != value.dims() {
            return Err(Error::Shape {
                path: "values of a cache".to_owned(),
                expected: format!("the shape of the keys, {:?}", key.dims()),
                got: value.dims().to_vec(),
            });
        }
        let text = || Tensor::zeros((places, width), key.dtype(), key.device());
        let text = [text()?, text()?];
        let image = [key.contiguous()?, value.contiguous()?];
        let image = match host::is_host_f32(key) && host::is_host_f32(value) {
            true => Image::Packed(pack(&image, [pictures, prefix, width], heads)?),
            false => Image::Plain(image),
        };
        Ok(Self { heads, pictures, prefix, width, image, text })
    }

    /// Writes keys and values of new tokens, `(rows, new, width)`, to the places that `rows` gave them last.
    ///
    /// # Errors
    /// If these are not the tokens of all rows, or there is no room for them.
    pub fn write(&self, key: &Tensor, value: &Tensor, rows: &DecodingRows) -> Result<()> {
        let (count, new, width) = key.dims3()?;
        let start = rows.newest(new).filter(|_| count == rows.len());
        let Some(start) = start else {
            return Err(Error::Shape {
                path: "new tokens of a cache".to_owned(),
                expected: format!("({}, tokens that were given places last, {width})", rows.len()),
                got: key.dims().to_vec(),
            });
        };
        for (buffer, values) in self.text.iter().zip([key, value]) {
            buffer.slice_set(&values.reshape((count * new, width))?.contiguous()?, 0, start)?;
        }
        Ok(())
    }
}

/// The heads of keys and values `(pictures, prefix, width)`.
fn pack(
    image: &[Tensor; 2],
    [pictures, prefix, width]: [usize; 3],
    heads: usize,
) -> candle_core::Result<Vec<[Panels; 2]>> {
    let views = [&image[0], &image[1]].map(Tensor::storage_and_layout);
    let [keys, values] = [host::values(&views[0])?, host::values(&views[1])?];
    let (isa, head_dim) = (Isa::active(), width / heads);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let of_picture = prefix * width;
    let head = |index: usize| {
        let first = index / heads * of_picture + index % heads * head_dim;
        let columns = |values| Columns::new(values, prefix, width, head_dim);
        let [mut packed_keys, mut packed_values] = [Panels::new(isa), Panels::new(isa)];
        packed_keys.pack_transposed(columns(keys.get(first..).unwrap_or_default()), scale);
        packed_values.pack(columns(values.get(first..).unwrap_or_default()), 1.0);
        [packed_keys, packed_values]
    };
    Ok((0..pictures * heads).into_par_iter().map(head).collect())
}
