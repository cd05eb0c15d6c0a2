//! Copies of layers for generation.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::adapted::Adapted;
use common::{adapted, values};
use train_ops::{ForwardContext, LinearLayer, enter, int8_snapshot, snapshot};

#[test]
fn snapshots_are_the_layer_and_the_layer_with_an_int8_weight() {
    let (k, n, ctx) = (70, 40, ForwardContext::inference());
    let (xs, layer) = (values(4, (3, k)), adapted(1, k, n, true));
    let short = Adapted { base: layer.base.to_int8_products().unwrap(), ..layer.clone() };
    let rows = |layer: &dyn LinearLayer| layer.forward(&xs, &ctx).unwrap().to_vec2::<f32>().unwrap();
    let (exact, quantised) = (rows(&layer), rows(&short));
    assert_ne!(exact, quantised);
    let layer: Arc<dyn LinearLayer> = Arc::new(layer);
    assert_eq!(rows(snapshot(&layer).unwrap().as_ref()), exact);
    assert_eq!(rows(int8_snapshot(&layer).unwrap().as_ref()), quantised);
}

/// An optimizer changes parameters in place, so two copies of them may differ.
#[test]
fn passes_with_copies_of_parameters_have_different_values() {
    let layer = adapted(1, 70, 40, true);
    let frozen: Arc<dyn LinearLayer> = Arc::new(layer.base.clone());
    let trained: Arc<dyn LinearLayer> = Arc::new(layer.clone());
    let hidden: Arc<dyn LinearLayer> = Arc::new(Adapted { known: false, ..layer });
    let pass = |layer: &Arc<dyn LinearLayer>| {
        let pass = ForwardContext::inference();
        let _entered = enter(pass.clone());
        snapshot(layer).unwrap();
        pass
    };
    assert!(pass(&frozen).has_values_of(&pass(&frozen)));
    // Not copied.
    assert!(pass(&hidden).has_values_of(&pass(&hidden)));
    let one = pass(&trained);
    assert!(one.has_values_of(&one.clone()));
    assert!(!one.has_values_of(&pass(&trained)) && !one.has_values_of(&pass(&frozen)));
}
