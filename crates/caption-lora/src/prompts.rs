//! Prompts that captions continue, such as questions: one for all pictures, or one per row of a dataset.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::ops::ControlFlow;

use anyhow::Result;
use candle_core::Tensor;
use caption_data::{CaptionSource, CaptionTokenizer, Encoded};
use caption_model::{Caption, CaptionModel, Draft, GenerationConfig, Progress};

/// The prompts of pictures.
pub struct Prompts {
    kind: Kind,
    cut: Cut,
    unknown: Unknown,
}

enum Kind {
    /// The same prompt for all pictures, or none.
    One(Option<Vec<u32>>),
    /// One prompt per row of a dataset, and its token ids.
    Rows(BTreeMap<usize, (String, Vec<u32>)>),
}

/// The number of prompts with too many tokens for the model. Displayed as a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    prompts: usize,
    of: usize,
    max_tokens: usize,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompts, of, max_tokens } = self;
        match of {
            1 => write!(f, "the prompt is cut to the {max_tokens} tokens that the model takes"),
            _ => {
                write!(f, "{prompts} of {of} prompts are cut to the {max_tokens} tokens that the model takes")
            }
        }
    }
}

/// The number of prompts without a word of the model's vocabulary. Displayed as a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Unknown {
    prompts: usize,
    of: usize,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            1 => write!(f, "the model's vocabulary has no word of the prompt"),
            of => write!(f, "{} of {of} prompts have no word of the model's vocabulary", self.prompts),
        }
    }
}

impl Prompts {
    /// One prompt for all pictures, or none. It begins with the model's `start` token, which may differ from
    /// the tokenizer's.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn one(prompt: Option<&str>, tokenizer: &CaptionTokenizer, start: u32) -> Result<Self> {
        let is_unknown = prompt.map(|text| is_unknown(text, tokenizer)).transpose()?.unwrap_or(false);
        let unknown = Unknown { prompts: is_unknown.into(), of: 1 };
        let prompt = prompt.map(|prompt| encode(prompt, tokenizer, start)).transpose()?;
        let is_cut = prompt.as_ref().is_some_and(|prompt| prompt.is_cut);
        let kind = Kind::One(prompt.map(|prompt| prompt.ids));
        Ok(Self { kind, cut: Cut::new(is_cut.into(), 1, tokenizer), unknown })
    }

    /// The prompts of some rows of a dataset. They begin with the model's `start` token.
    ///
    /// # Errors
    /// If one cannot be read, is blank, or cannot be encoded.
    pub fn of_rows(
        source: &dyn CaptionSource,
        rows: &[usize],
        tokenizer: &CaptionTokenizer,
        start: u32,
    ) -> Result<Self> {
        let (mut prompts, mut cut, mut unknown) = (BTreeMap::new(), 0, 0);
        for &row in rows {
            let text = source.prompt(row)?.unwrap_or_default();
            let prompt = encode(&text, tokenizer, start)?;
            cut += usize::from(prompt.is_cut);
            unknown += usize::from(is_unknown(&text, tokenizer)?);
            prompts.insert(row, (text, prompt.ids));
        }
        let unknown = Unknown { prompts: unknown, of: rows.len() };
        Ok(Self { kind: Kind::Rows(prompts), cut: Cut::new(cut, rows.len(), tokenizer), unknown })
    }

    /// The number of truncated prompts, if there are any.
    pub fn cut(&self) -> Option<Cut> {
        Some(self.cut).filter(|cut| cut.prompts > 0)
    }

    /// The number of prompts without a known word, if there are any.
    pub fn unknown(&self) -> Option<Unknown> {
        Some(self.unknown).filter(|unknown| unknown.prompts > 0)
    }

    /// Tokens of the longest prompt, including the start token.
    pub fn longest(&self) -> usize {
        match &self.kind {
            Kind::One(prompt) => prompt.as_ref().map_or(1, Vec::len),
            Kind::Rows(prompts) => prompts.values().map(|(_, ids)| ids.len()).max().unwrap_or(1),
        }
    }

    /// The text of a row's own prompt and its number of tokens; `None` if all pictures have the same prompt.
    pub fn of_row(&self, row: usize) -> Option<(&str, usize)> {
        match &self.kind {
            Kind::One(_) => None,
            Kind::Rows(prompts) => prompts.get(&row).map(|(text, ids)| (text.as_str(), ids.len())),
        }
    }

    /// Captions the pictures of some rows, in order, continuing their prompts. `resolve` returns the decoding
    /// options for a prompt's length. Rows with the same prompt are captioned together; the captions are the
    /// same as one by one.
    ///
    /// # Errors
    /// The errors of `resolve`, and as [`CaptionModel::generate_with`].
    pub fn captions(
        &self,
        rows: &[usize],
        model: &dyn CaptionModel,
        features: &Tensor,
        resolve: &dyn Fn(usize) -> Result<GenerationConfig>,
        draft: Option<&Draft>,
    ) -> Result<Vec<Vec<Caption>>> {
        let go_on = &mut |_: Progress<'_>| ControlFlow::Continue(());
        let prompts = match &self.kind {
            Kind::One(prompt) => {
                let config = resolve(self.longest())?;
                let captions = model.generate_with(features, prompt.as_deref(), &config, draft, go_on)?;
                return Ok(captions.chunks(config.num_return_sequences).map(<[Caption]>::to_vec).collect());
            }
            Kind::Rows(prompts) => rows.iter().map(|row| prompts.get(row).map(|(_, ids)| ids.as_slice())),
        };
        let mut captions = vec![Vec::new(); rows.len()];
        for (prompt, places) in by_prompt(prompts) {
            let index: Vec<u32> = places.iter().map(|place| *place as u32).collect();
            let features = features.index_select(&Tensor::new(index, features.device())?, 0)?;
            let length = prompt.map_or(1, <[u32]>::len);
            let config = after_prompt(&resolve(length)?, length, model);
            let of_prompt = model.generate_with(&features, prompt, &config, draft, go_on)?;
            for (place, of_picture) in places.into_iter().zip(of_prompt.chunks(config.num_return_sequences)) {
                captions[place] = of_picture.to_vec();
            }
        }
        Ok(captions)
    }
}

impl Cut {
    fn new(prompts: usize, of: usize, tokenizer: &CaptionTokenizer) -> Self {
        // [SEP] counts towards the tokenizer's maximum, but is not part of a prompt.
        Self { prompts, of, max_tokens: tokenizer.max_length().unwrap_or_default().saturating_sub(1) }
    }
}

/// Whether the vocabulary has no word of a text.
fn is_unknown(text: &str, tokenizer: &CaptionTokenizer) -> Result<bool> {
    Ok(tokenizer.is_unknown(&tokenizer.encode(text)?))
}

/// Encodes a prompt, with `start` as its first token.
fn encode(text: &str, tokenizer: &CaptionTokenizer, start: u32) -> Result<Encoded> {
    let mut prompt = tokenizer.encode_prompt(text)?;
    if let Some(first) = prompt.ids.first_mut() {
        *first = start;
    }
    Ok(prompt)
}

/// Groups the indices of equal prompts, in the order of their first occurrence: all rows of a batch share one
/// prompt.
pub(crate) fn by_prompt<P: Eq + Hash + Clone>(prompts: impl IntoIterator<Item = P>) -> Vec<(P, Vec<usize>)> {
    let mut numbers = HashMap::new();
    let mut groups: Vec<(P, Vec<usize>)> = Vec::new();
    for (place, prompt) in prompts.into_iter().enumerate() {
        let number = *numbers.entry(prompt.clone()).or_insert(groups.len());
        match groups.get_mut(number) {
            Some((_, places)) => places.push(place),
            None => groups.push((prompt, vec![place])),
        }
    }
    groups
}

/// Limits the new tokens of decoding options to the positions that the model has left after a prompt of this
/// many tokens.
pub(crate) fn after_prompt(
    config: &GenerationConfig,
    prompt: usize,
    model: &dyn CaptionModel,
) -> GenerationConfig {
    // The model never reads the last token, so it needs no position.
    let left = (model.tokens().max_length + 1).saturating_sub(prompt).max(1);
    GenerationConfig {
        max_new_tokens: config.max_new_tokens.min(left),
        min_new_tokens: config.min_new_tokens.min(left),
        ..config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_prompts_are_found_in_the_order_of_the_first_of_each() {
        let groups = by_prompt([Some("b"), None, Some("a"), Some("b"), None]);
        assert_eq!(groups, [(Some("b"), vec![0, 3]), (None, vec![1, 4]), (Some("a"), vec![2])]);
    }
}
