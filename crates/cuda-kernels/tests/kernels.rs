//! Every kernel, run on the CPU and compared with f64.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checks;
mod reference;

use checks::Check;
use cuda_kernels::emulation::{EmulationError, Emulator};
use cuda_kernels::{Dropout, Element, Mask, Pointer};

fn passes(check: Check) {
    if let Err(error) = check(&Emulator::built_in()) {
        panic!("{error}");
    }
}

#[test]
fn dropout_masks_are_those_of_the_cpu_bit_for_bit() {
    passes(checks::dropout::dropout);
}

#[test]
fn residual_norm_and_its_gradients_agree_with_f64() {
    passes(checks::residual_norm::residual_norm);
}

#[test]
fn rows_are_copied_in_their_order() {
    passes(checks::row_copy::row_copy);
}

#[test]
fn rows_are_added_in_their_order() {
    passes(checks::row_add::row_add);
}

#[test]
fn tensors_of_any_size_are_copied() {
    passes(checks::tensor_copy::tensor_copy);
}

#[test]
fn activations_and_their_gradients_agree_with_f64() {
    passes(checks::activation::activation);
}

#[test]
fn cross_entropy_and_its_gradient_agree_with_f64() {
    passes(checks::cross_entropy::cross_entropy);
}

#[test]
fn top_candidates_are_those_of_a_stable_sort() {
    passes(checks::candidates::top_candidates);
}

#[test]
fn hundreds_of_candidates_are_those_of_a_stable_sort() {
    passes(checks::candidates::sorted_candidates);
}

#[test]
fn candidates_beside_nan_are_numbers() {
    passes(checks::candidates::candidates_beside_nan);
}

#[test]
fn sorted_candidates_beside_nan_are_numbers() {
    passes(checks::candidates::sorted_candidates_beside_nan);
}

#[test]
fn attention_agrees_with_f64() {
    passes(checks::attention::attention_forward);
}

#[test]
fn gradients_of_attention_agree_with_f64() {
    passes(checks::attention::attention_backward);
}

#[test]
fn decoding_attention_agrees_with_f64() {
    passes(checks::decoding::decoding_attention);
}

#[test]
fn keys_and_values_are_written_to_their_slots_and_to_no_others() {
    passes(checks::decoding::cache_write);
}

#[test]
fn adapters_and_their_gradients_agree_with_f64() {
    passes(checks::lora::lora);
}

#[test]
fn norms_clipping_and_adamw_are_those_of_the_cpu_bit_for_bit() {
    passes(checks::optimizer::optimizer);
}

#[test]
fn scaled_gradients_are_products_of_f32() {
    passes(checks::optimizer::scaled_gradients);
}

#[test]
fn gradients_are_added_in_f32() {
    passes(checks::optimizer::added_gradients);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    passes(checks::optimizer::not_finite);
}

#[test]
fn int8_products_agree_with_f64() {
    passes(checks::int8::int8);
}

#[test]
fn a_launch_without_elements_does_nothing() {
    let dropout = Dropout { xs: Pointer::NULL, ys: Pointer::NULL, rows: 0, columns: 5, mask: Mask::NONE };
    let launch = dropout.launch(Element::F32).unwrap();
    assert!(launch.is_empty());
    checks::run(&Emulator::built_in(), &[launch], 0).unwrap();
}

#[test]
fn a_kernel_that_does_not_exist_is_an_error() {
    let dropout = Dropout { xs: Pointer::NULL, ys: Pointer::NULL, rows: 1, columns: 1, mask: Mask::NONE };
    let mut launch = dropout.launch(Element::F32).unwrap();
    launch.function = "dropped";
    // SAFETY: nothing runs.
    #[allow(unsafe_code)]
    let error = unsafe { Emulator::built_in().run(&launch, 0) }.unwrap_err();
    assert!(matches!(error, EmulationError::Missing(name) if name == "dropped"));
}
