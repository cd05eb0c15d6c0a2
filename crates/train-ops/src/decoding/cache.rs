use candle_core::Tensor;
use cpu_kernels::{Isa, Panels, Strided};
use rayon::prelude::*;

use super::DecodingRows;
use crate::{Error, Result, cuda, host};

/// The key-value cache of one attention layer in decoding. It has the keys and values of an image's tokens
/// once, for all sequences of the image, and those of text tokens in the slots that [`DecodingRows`] assigns to
/// them.
#[derive(Debug)]
pub struct KeyValueCache {
    pub(super) heads: usize,
    pub(super) images: usize,
    /// Tokens of an image.
    pub(super) prefix: usize,
    pub(super) width: usize,
    pub(super) image: ImageKeys,
    /// `(slots, width)`.
    pub(super) text: [Tensor; 2],
}

/// Keys and values of the images.
#[derive(Debug)]
pub(super) enum ImageKeys {
    /// Packed: for each head of each image, the transposed keys, multiplied by the scale of attention, and the values.
    Packed(Vec<[Panels; 2]>),
    /// `(images, prefix, width)`, on other devices and of other types.
    Plain([Tensor; 2]),
}

impl KeyValueCache {
    /// From keys and values of the images, `(images, prefix, heads * head_dim)`, with room for `slots` text tokens of
    /// all sequences together.
    ///
    /// # Errors
    /// If the shapes are not those.
    pub fn new(key: &Tensor, value: &Tensor, heads: usize, slots: usize) -> Result<Self> {
        let (images, prefix, width) = key.dims3()?;
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(Error::Shape {
                path: "keys of a cache".to_owned(),
                expected: format!("(images, tokens, a multiple of {heads} heads)"),
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
        let text = || Tensor::zeros((slots, width), key.dtype(), key.device());
        let text = [text()?, text()?];
        let image = [key.contiguous()?, value.contiguous()?];
        let image = match host::is_host_f32(key) && host::is_host_f32(value) {
            true => ImageKeys::Packed(pack(host::isa()?, &image, [images, prefix, width], heads)?),
            false => ImageKeys::Plain(image),
        };
        Ok(Self { heads, images, prefix, width, image, text })
    }

    /// Checks that there are slots for all tokens of `rows`, and their images.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, rows: &DecodingRows) -> Result<()> {
        let slots = self.text[0].dim(0)?;
        if rows.used > slots || rows.images().any(|image| image >= self.images) {
            return Err(Error::Shape {
                path: "cache of cached_attention".to_owned(),
                expected: format!("{} slots, and every image that a sequence refers to", rows.used),
                got: vec![slots, self.images],
            });
        }
        Ok(())
    }

    /// Writes keys and values of new tokens, `(rows, new, width)`, to the slots that the last call of
    /// [`DecodingRows::extend`] assigned to them.
    ///
    /// # Errors
    /// If these are not the newest tokens of all rows, or there are too few slots.
    pub fn write(&self, key: &Tensor, value: &Tensor, rows: &DecodingRows) -> Result<()> {
        let (count, new, width) = key.dims3()?;
        let start = rows.newest(new).filter(|_| count == rows.len());
        let Some(start) = start else {
            return Err(Error::Shape {
                path: "new tokens of a cache".to_owned(),
                expected: format!("({}, tokens that were given slots last, {width})", rows.len()),
                got: key.dims().to_vec(),
            });
        };
        self.check(rows)?;
        if width != self.width || value.dims() != key.dims() {
            return Err(Error::Shape {
                path: "new keys and values of a cache".to_owned(),
                expected: format!("({count}, {new}, {}), both", self.width),
                got: if width == self.width { value.dims().to_vec() } else { key.dims().to_vec() },
            });
        }
        if cuda::cache_write([key, value], &self.text, rows)? {
            return Ok(());
        }
        rows.on_host("writing to a cache", key)?;
        for (buffer, values) in self.text.iter().zip([key, value]) {
            buffer.slice_set(&values.reshape((count * new, width))?.contiguous()?, 0, start)?;
        }
        Ok(())
    }

    /// Takes over the images of `other`, whose keys and values are copied, so that this cache serves in its place: it has at least as
    /// many images and slots, of the same sizes and type, on the same device. Text tokens are not copied.
    ///
    /// Returns false, and changes nothing, if this cache does not serve, or is one of f32 in host memory.
    ///
    /// # Errors
    /// If the device fails.
    pub fn take_images(&self, other: &Self) -> Result<bool> {
        let (ImageKeys::Plain(own), ImageKeys::Plain(others)) = (&self.image, &other.image) else {
            return Ok(false);
        };
        let sizes = |cache: &Self| (cache.heads, cache.prefix, cache.width);
        let like = |a: &Tensor, b: &Tensor| a.dtype() == b.dtype() && a.device().same_device(b.device());
        let enough = self.images >= other.images && self.text[0].dim(0)? >= other.text[0].dim(0)?;
        let alike = own.iter().zip(others).all(|(own, other)| like(own, other));
        if !enough || !alike || sizes(self) != sizes(other) {
            return Ok(false);
        }
        for (own, other) in own.iter().zip(others) {
            own.slice_set(other, 0, 0)?;
        }
        Ok(true)
    }
}

/// The heads of keys and values `(images, prefix, width)`.
fn pack(
    isa: Isa,
    image: &[Tensor; 2],
    [images, prefix, width]: [usize; 3],
    heads: usize,
) -> candle_core::Result<Vec<[Panels; 2]>> {
    let views = [&image[0], &image[1]].map(Tensor::storage_and_layout);
    let [keys, values] = [host::values(&views[0])?, host::values(&views[1])?];
    let head_dim = width / heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let per_image = prefix * width;
    let head = |index: usize| {
        let first = index / heads * per_image + index % heads * head_dim;
        let columns = |values| Strided::new(values, prefix, width, head_dim);
        let [mut packed_keys, mut packed_values] = [Panels::default(), Panels::default()];
        packed_keys.pack_transposed(isa, columns(keys.get(first..).unwrap_or_default()), scale);
        packed_values.pack(isa, columns(values.get(first..).unwrap_or_default()), 1.0);
        [packed_keys, packed_values]
    };
    Ok((0..images * heads).into_par_iter().map(head).collect())
}
