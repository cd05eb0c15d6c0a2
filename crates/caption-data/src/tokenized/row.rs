//! The token ids of a row.

use super::TokenCuts;
use crate::{CaptionSource, CaptionTokenizer, Result};

/// The captions of a picture.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// `[CLS]` and the prompt; `None` without a prompt.
    pub(super) prompt: Option<Vec<u32>>,
    pub(super) references: Vec<Reference>,
}

/// A caption after its prompt.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) ids: Vec<u32>,
    /// The length of the prompt in ids, `[CLS]` included; 0 without a prompt.
    pub(super) prompt: usize,
}

impl Row {
    /// Tokenizes a row of a dataset and counts its texts.
    pub(super) fn read(
        source: &dyn CaptionSource,
        row: usize,
        tokenizer: &CaptionTokenizer,
        cuts: &mut TokenCuts,
    ) -> Result<Self> {
        let prompt = source.prompt(row)?.map(|prompt| tokenizer.encode_prompt(&prompt)).transpose()?;
        let mut prompt_is_cut = prompt.as_ref().is_some_and(|prompt| prompt.is_cut);
        let prompt = prompt.map(|prompt| prompt.ids);
        let mut references = Vec::new();
        for caption in source.captions(row)? {
            let caption = tokenizer.encode_text(&caption)?;
            cuts.captions += 1;
            cuts.cut_captions += usize::from(caption.is_cut);
            cuts.unknown_captions += usize::from(tokenizer.is_unknown(&caption.ids));
            let reference = Reference::new(prompt.as_deref(), &caption.ids, tokenizer);
            prompt_is_cut |= prompt.as_ref().is_some_and(|prompt| reference.prompt < prompt.len());
            references.push(reference);
        }
        cuts.rows += 1;
        cuts.cut_prompts += usize::from(prompt_is_cut);
        Ok(Self { prompt, references })
    }

    /// The number of tokens of the longest caption.
    pub(super) fn longest(&self) -> usize {
        self.references.iter().map(|reference| reference.ids.len()).max().unwrap_or(0)
    }
}

impl Reference {
    /// A caption after its prompt; the prompt is truncated if there is no room for both.
    pub(super) fn new(prompt: Option<&[u32]>, caption: &[u32], tokenizer: &CaptionTokenizer) -> Self {
        let Some(prompt) = prompt else { return Self { ids: caption.to_vec(), prompt: 0 } };
        // Without the caption's own start token, because there is one before the prompt.
        let caption = caption.get(1..).unwrap_or_default();
        let room = tokenizer.max_length().map_or(usize::MAX, |max| max - caption.len());
        let prompt = &prompt[..prompt.len().min(room)];
        Self { ids: [prompt, caption].concat(), prompt: prompt.len() }
    }
}
