//! Prompts that captions continue, such as questions: one for all pictures, or one for each row of a dataset.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::ops::ControlFlow;

use anyhow::Result;
use candle_core::Tensor;
use caption_data::{CaptionSource, CaptionTokenizer, Encoded};
use git_model::{Caption, Draft, GenerationConfig, GitForCausalLm, Progress};

/// The prompts of pictures.
pub struct Prompts {
    kind: Kind,
    cut: Cut,
}

enum Kind {
    /// The same one for all pictures, or none.
    One(Option<Vec<u32>>),
    /// One for each row of a dataset, and its ids.
    Rows(BTreeMap<usize, (String, Vec<u32>)>),
}

/// Prompts that have too many tokens for the model. Displayed as a sentence.
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

impl Prompts {
    /// One prompt for all pictures, or none; it begins with the token `start`.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn one(prompt: Option<&str>, tokenizer: &CaptionTokenizer, start: u32) -> Result<Self> {
        let prompt = prompt.map(|prompt| encoded(prompt, tokenizer, start)).transpose()?;
        let is_cut = prompt.as_ref().is_some_and(|prompt| prompt.is_cut);
        let kind = Kind::One(prompt.map(|prompt| prompt.ids));
        Ok(Self { kind, cut: Cut::new(is_cut.into(), 1, tokenizer) })
    }

    /// The prompts of some rows of a dataset, each of which begins with the token `start`.
    ///
    /// # Errors
    /// If one cannot be read, is blank, or cannot be encoded.
    pub fn of_rows(
        source: &dyn CaptionSource,
        rows: &[usize],
        tokenizer: &CaptionTokenizer,
        start: u32,
    ) -> Result<Self> {
        let (mut prompts, mut cut) = (BTreeMap::new(), 0);
        for &row in rows {
            let text = source.prompt(row)?.unwrap_or_default();
            let prompt = encoded(&text, tokenizer, start)?;
            cut += usize::from(prompt.is_cut);
            prompts.insert(row, (text, prompt.ids));
        }
        Ok(Self { kind: Kind::Rows(prompts), cut: Cut::new(cut, rows.len(), tokenizer) })
    }

    /// How many prompts are cut, if there are any.
    pub fn cut(&self) -> Option<Cut> {
        Some(self.cut).filter(|cut| cut.prompts > 0)
    }

    /// Tokens of the longest prompt, the start token counted; 1 without a prompt.
    pub fn longest(&self) -> usize {
        match &self.kind {
            Kind::One(prompt) => prompt.as_ref().map_or(1, Vec::len),
            Kind::Rows(prompts) => prompts.values().map(|(_, ids)| ids.len()).max().unwrap_or(1),
        }
    }

    /// The text of a row's own prompt and the number of its tokens; `None` where all pictures have the same.
    pub fn of_row(&self, row: usize) -> Option<(&str, usize)> {
        match &self.kind {
            Kind::One(_) => None,
            Kind::Rows(prompts) => prompts.get(&row).map(|(text, ids)| (text.as_str(), ids.len())),
        }
    }

    /// Captions of the pictures of some rows, in their order, behind their prompts. Rows with the same prompt are captioned
    /// together, and a batch of others has the captions that each would have alone. `resolve` gives the decoding options for a
    /// prompt's length.
    ///
    /// # Errors
    /// As [`GitForCausalLm::generate_with`].
    pub fn captions(
        &self,
        rows: &[usize],
        model: &GitForCausalLm,
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
        // [SEP] is counted in the tokenizer's maximum, and is no part of a prompt.
        Self { prompts, of, max_tokens: tokenizer.max_length().unwrap_or_default().saturating_sub(1) }
    }
}

/// A prompt as token ids that begin with `start`.
fn encoded(text: &str, tokenizer: &CaptionTokenizer, start: u32) -> Result<Encoded> {
    let mut prompt = tokenizer.encode_prompt(text)?;
    if let Some(first) = prompt.ids.first_mut() {
        *first = start;
    }
    Ok(prompt)
}

/// The places of equal prompts, in the order of the first of each: a model continues one prompt in a batch.
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

/// Decoding options that fit behind a prompt of so many tokens: no more new tokens than the model has positions left.
pub(crate) fn after_prompt(
    config: &GenerationConfig,
    prompt: usize,
    model: &GitForCausalLm,
) -> GenerationConfig {
    // The last token is never fed back, so that it needs no position.
    let left = (model.config().max_position_embeddings + 1).saturating_sub(prompt).max(1);
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
