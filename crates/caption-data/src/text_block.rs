//! The texts of many rows in a compact form.

use crate::texts::RowTexts;

/// The captions and prompts of neighbouring rows, joined into one string: 12 bytes a row more than the text.
#[derive(Debug, Default)]
pub(crate) struct TextBlock {
    text: String,
    /// Where each caption or prompt ends in `text`.
    ends: Vec<usize>,
    /// For each row, the number of texts up to its last one. Its prompt, if there are any, follows its captions.
    rows: Vec<u32>,
    has_prompts: bool,
}

impl TextBlock {
    /// An empty block, of rows with or without prompts.
    pub(crate) fn new(has_prompts: bool) -> Self {
        Self { has_prompts, ..Self::default() }
    }

    /// Adds the texts of the next row.
    pub(crate) fn push(&mut self, texts: &RowTexts) {
        let prompt = self.has_prompts.then(|| texts.prompt.as_deref().unwrap_or_default());
        for text in texts.captions.iter().map(String::as_str).chain(prompt) {
            self.text.push_str(text);
            self.ends.push(self.text.len());
        }
        self.rows.push(self.ends.len() as u32);
    }

    /// Frees the memory that was allocated for more rows.
    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.rows.shrink_to_fit();
    }

    /// The texts of a row, without the number of its blank captions; `None` if there is no such row.
    pub(crate) fn get(&self, row: usize) -> Option<RowTexts> {
        let end = *self.rows.get(row)? as usize;
        let first = row.checked_sub(1).map_or(0, |row| self.rows[row] as usize);
        let text = |at: usize| {
            let start = at.checked_sub(1).map_or(0, |at| self.ends[at]);
            self.text[start..self.ends[at]].to_owned()
        };
        let mut captions: Vec<String> = (first..end).map(text).collect();
        let prompt = if self.has_prompts { captions.pop() } else { None };
        Some(RowTexts { captions, blank: 0, prompt })
    }

    /// The memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + size_of_val(self.ends.as_slice()) + size_of_val(self.rows.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_returns_the_texts_of_each_row() {
        let row = |captions: &[&str], prompt: Option<&str>| RowTexts {
            captions: captions.iter().map(|caption| (*caption).to_owned()).collect(),
            blank: 0,
            prompt: prompt.map(str::to_owned),
        };
        let without = [row(&["a cat"], None), row(&[], None), row(&["é", "two"], None)];
        let with = [row(&["a", "b"], Some("q?")), row(&[], Some("")), row(&["c"], Some("r?"))];
        for (rows, has_prompts) in [(without, false), (with, true)] {
            let mut block = TextBlock::new(has_prompts);
            rows.iter().for_each(|row| block.push(row));
            block.shrink();
            for (number, row) in rows.iter().enumerate() {
                assert_eq!(block.get(number).as_ref(), Some(row));
            }
            assert_eq!(block.get(3), None);
        }
    }
}
