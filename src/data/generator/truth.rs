//! The truth: the probability that an impression is clicked, and then watched to its end.
//!
//! Main effects of user, item, creator, hour and device are easy to learn. What is left needs
//! embeddings (the affinity of taste and item) and crosses: category by part of the day and by age,
//! device by duration, freshness by the user's wish for novelty, the country of user and creator.

use super::domain::{DESKTOP, PHONE, TABLET, TV};
use super::world::{DAY_PARTS, DIM, Item, User, World};

const CLICK_BASE: f32 = -1.45;
const COMPLETE_BASE: f32 = 0.3;
const AFFINITY: f32 = 1.0;

/// What is known of an impression beside user and item.
pub(super) struct Context {
    /// The hour where the user is, 0 to 23.
    pub hour: u8,
    pub device: usize,
    pub item_age_days: f32,
    /// Cosine and sine of how far tastes have rotated.
    pub rotation: (f32, f32),
}

/// The parts of the logit of a click.
pub(super) struct ClickLogit {
    /// Main effects: what a linear model can learn.
    pub main: f32,
    /// What needs embeddings or crosses.
    pub crosses: f32,
}

/// The logit of a click.
pub(super) fn click_logit(
    world: &World,
    user: &User,
    item: &Item,
    context: &Context,
) -> ClickLogit {
    let creator = &world.creators[item.creator as usize];
    let angle = f32::from(context.hour) - 21.0;
    let hour = 0.25 * (angle * std::f32::consts::TAU / 24.0).cos();
    let (device, by_duration) = match context.device {
        PHONE => (0.1, -0.4),
        TABLET => (0.0, 0.0),
        DESKTOP => (-0.15, 0.1),
        TV => (0.1, 0.5),
        _ => (0.0, 0.0),
    };
    let day_part = usize::from(context.hour) * DAY_PARTS / 24;
    let category = usize::from(item.category);
    let freshness = (-context.item_age_days / 30.0).exp() - 0.2;
    let home = if user.country == creator.country {
        0.5
    } else {
        0.0
    };
    ClickLogit {
        main: CLICK_BASE + user.bias + item.bias + creator.bias + hour + device,
        crosses: AFFINITY * affinity(user, item, context.rotation)
            + world.day_part_category[day_part][category]
            + world.age_category[usize::from(user.age)][category]
            + by_duration * log_duration(item)
            + 0.6 * user.novelty * freshness
            + home,
    }
}

/// The logit of watching to the end what was clicked.
pub(super) fn complete_logit(user: &User, item: &Item, context: &Context) -> f32 {
    let device = if context.device == TV { 0.5 } else { 0.0 };
    COMPLETE_BASE + 0.6 * AFFINITY * affinity(user, item, context.rotation) + user.patience + device
        - 0.7 * log_duration(item)
}

pub(super) fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// The inner product of the rotated taste and the item, scaled to a deviation of about 1. Taste
/// rotates in the planes of coordinates 0 and 1, 2 and 3, and so on.
fn affinity(user: &User, item: &Item, (cos, sin): (f32, f32)) -> f32 {
    let pairs = user
        .taste
        .as_chunks::<2>()
        .0
        .iter()
        .zip(item.vector.as_chunks::<2>().0);
    let product: f32 = pairs
        .map(|(&[a, b], &[x, y])| (cos * a - sin * b) * x + (sin * a + cos * b) * y)
        .sum();
    product / (DIM as f32).sqrt()
}

/// The logarithm of the duration, 0 at two minutes.
fn log_duration(item: &Item) -> f32 {
    (item.duration_s / 120.0).ln()
}
