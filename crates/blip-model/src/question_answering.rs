use candle_core::{Device, Tensor};
use caption_model::{
    CaptionCheckpoint as _, CaptionConfig, CaptionModel, DecoderInput, DecodingGraphs, GenerationError,
    LayerMap, Loader, TextBatch, TextDecoder,
};
use train_ops::{DecoderMasks, ForwardContext, KeyLengths, KeyValueCache, LayerBuilder};

use crate::parts::Parts;
use crate::question_encoder::QuestionEncoder;
use crate::questions::{QuestionTokens, TextLengths, question_batch};
use crate::{BlipConfig, BlipTask, Checkpoint, Error, LoadOptions, Result, features};

/// BLIP for questions about pictures, with the results of transformers' `BlipForQuestionAnswering`: a question
/// encoder with cross-attention to the picture, and an answer decoder with cross-attention to the question's
/// states.
///
/// A prompt is a question, and the caption that continues it is the answer. Questions begin with `[ENC]` and answers with
/// `[DEC]`, in training and in generation, as in BLIP's own code.
#[derive(Debug)]
pub struct BlipForQuestionAnswering {
    parts: Parts,
    encoder: QuestionEncoder,
}

impl BlipForQuestionAnswering {
    /// Builds the model of a checkpoint on the CPU in f32; `builder` decides whether layers are frozen, trainable or adapted.
    ///
    /// # Errors
    /// As [`load_with`](Self::load_with).
    pub fn load(checkpoint: &Checkpoint, builder: &mut dyn LayerBuilder) -> Result<Self> {
        Self::load_with(checkpoint, builder, &LoadOptions::default())
    }

    /// As [`load`](Self::load), with options.
    ///
    /// # Errors
    /// If the checkpoint is for captions, a tensor cannot be read, or the builder refuses a layer.
    pub fn load_with(
        checkpoint: &Checkpoint,
        builder: &mut dyn LayerBuilder,
        options: &LoadOptions,
    ) -> Result<Self> {
        checkpoint.expect(BlipTask::Questions)?;
        let config = checkpoint.config().with_dropout(options.hidden_dropout);
        let mut loader = Loader::new(checkpoint.tensors(), builder, options);
        let encoder = QuestionEncoder::load(&config.text_config, &mut loader)?;
        Ok(Self { parts: Parts::load(config, &mut loader, options)?, encoder })
    }

    /// The configuration, with the dropout that the model was built with.
    pub fn config(&self) -> &BlipConfig {
        &self.parts.config
    }

    /// The states `(batch, tokens, hidden)` of questions `[ENC] question [SEP]` `(batch, tokens)`, which the
    /// answer decoder attends to. `lengths` has the number of tokens of each question without padding; `None`
    /// if no question is padded.
    ///
    /// # Errors
    /// If shapes do not fit, a token is not in the vocabulary, or a question is longer than the model has positions.
    pub fn encode_questions(
        &self,
        image_features: &Tensor,
        questions: &Tensor,
        lengths: Option<&KeyLengths>,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let (batch, width) = (questions.dim(0)?, self.parts.config.vision_config.hidden_size);
        features::check("image_features", image_features, Some(batch), width)?;
        self.encoder.forward(image_features, questions, lengths, ctx)
    }

    /// The decoder's last hidden states, `(batch, text, hidden)`, for answers `[DEC] answer` `(batch, text)` to
    /// questions with these states. Padding of answers must be at the end of a row.
    ///
    /// # Errors
    /// As [`encode_questions`](Self::encode_questions).
    pub fn hidden_states(
        &self,
        question_states: &Tensor,
        lengths: Option<&KeyLengths>,
        answers: &Tensor,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let (batch, width) = (answers.dim(0)?, self.parts.config.text_config.hidden_size);
        features::check("question_states", question_states, Some(batch), width)?;
        let masks = DecoderMasks { state_lengths: lengths.cloned(), ..DecoderMasks::causal() };
        self.parts.decoder.forward(
            &self.parts.embeddings.forward(answers, ctx)?,
            question_states,
            &masks,
            ctx,
        )
    }

    /// Logits over the vocabulary, `(..., vocab_size)`, from hidden states `(..., hidden)`.
    ///
    /// # Errors
    /// If the hidden states have another width.
    pub fn logits(&self, hidden_states: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        self.parts.decoder.head.logits(hidden_states, ctx)
    }

    fn question_tokens(&self) -> QuestionTokens {
        let text = &self.parts.config.text_config;
        QuestionTokens {
            question: self.parts.config.question_token(),
            answer: text.bos_token_id,
            end: text.sep_token_id,
        }
    }
}

impl CaptionModel for BlipForQuestionAnswering {
    fn device(&self) -> &Device {
        &self.parts.device
    }

    fn caption_config(&self) -> &dyn CaptionConfig {
        &self.parts.config
    }

    fn encode_images(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        self.parts.encode_images(pixel_values, ctx)
    }

    fn release_image_encoder(&mut self) {
        self.parts.vision = None;
    }

    /// Rows of `input_ids` hold a prompt, the question, and the caption that continues it, the answer; only the
    /// answer has labels. Label smoothing is that of
    /// [`BlipForConditionalGeneration`](crate::BlipForConditionalGeneration).
    fn smoothed_loss(
        &self,
        image_features: &Tensor,
        input_ids: &Tensor,
        labels: &[Vec<i64>],
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        let text = self.text_batch(input_ids, labels, 1)?;
        self.text_loss(image_features, &text, label_smoothing, ctx)
    }

    fn text_batch(&self, input_ids: &Tensor, labels: &[Vec<i64>], multiple: usize) -> Result<TextBatch> {
        let lengths = TextLengths { multiple, most: self.tokens().max_length };
        question_batch(input_ids, labels, self.question_tokens(), lengths)
    }

    fn text_loss(
        &self,
        image_features: &Tensor,
        text: &TextBatch,
        label_smoothing: f32,
        ctx: &ForwardContext,
    ) -> Result<(Tensor, usize)> {
        let labels = text.shifted_labels()?.padded_for(&self.parts.device);
        let lengths = text.key_lengths();
        let lengths = lengths.as_ref();
        let hidden_states = || {
            let [questions, answers] = &text.tensors(&self.parts.device)?[..] else {
                let expected = "questions and answers".to_owned();
                return Err(Error::Shape { input: "texts", expected, got: vec![text.texts.len()] });
            };
            // Now, since a recorded pass takes its numbers in the order of `TextBatch::numbers`: first texts, then lengths.
            lengths.map(|lengths| lengths.on(&self.parts.device)).transpose()?;
            let states = self.encode_questions(image_features, questions, lengths, ctx)?;
            self.hidden_states(&states, lengths, answers, ctx)
        };
        self.parts.loss(&labels, label_smoothing, ctx, hidden_states)
    }

    fn embed(&self, input_ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        self.parts.embeddings.at(input_ids, positions)
    }

    /// The states of the question, encoded with each picture. The decoder begins with the start token alone.
    fn decoder_input<'a>(
        &self,
        image_features: &Tensor,
        prompt: Option<&'a [u32]>,
    ) -> Result<DecoderInput<'a>> {
        let prompt = prompt.filter(|prompt| prompt.len() > 1).ok_or(Error::NoQuestion { row: None })?;
        let (start, got) = (self.parts.config.text_config.bos_token_id, prompt[0]);
        if got != start {
            return Err(GenerationError::PromptStart { start, got }.into());
        }
        let pictures = image_features.dim(0)?;
        let question = self.question_tokens().question_of(prompt);
        let questions = Tensor::new(question, &self.parts.device)?.unsqueeze(0)?.repeat((pictures, 1))?;
        let ctx = ForwardContext::inference();
        let states = self.encode_questions(image_features, &questions, None, &ctx)?;
        Ok(DecoderInput { states, prompt: None, encoded: Some(prompt) })
    }

    fn caches(&self, states: &Tensor, slots: usize) -> Result<Vec<KeyValueCache>> {
        features::check("question states", states, None, self.parts.config.text_config.hidden_size)?;
        self.parts.decoder.caches(states, slots)
    }

    fn decoding_graphs(&self) -> Option<&DecodingGraphs> {
        self.parts.decoding_graphs.as_ref()
    }

    fn text_decoder(&self, map: LayerMap) -> Result<Box<dyn TextDecoder>> {
        Ok(Box::new(self.parts.decoder.map_linear(map)?))
    }
}
