//! The generated world: users and items with latent vectors, and how often each is seen.

use rayon::prelude::*;

use super::domain::{AGES, CATEGORIES, COUNTRIES};
use super::settings::{DAY_MS, GeneratorSettings};
use crate::data::counter::Stream;
use crate::data::order::permutation;

/// The length of a latent vector.
pub(super) const DIM: usize = 8;
/// Parts of a day with a taste of their own.
pub(super) const DAY_PARTS: usize = 4;
/// How popularity falls with rank: rank^-exponent.
const USER_EXPONENT: f64 = 0.7;
const ITEM_EXPONENT: f64 = 0.9;
const ITEMS_PER_CREATOR: u64 = 20;
/// The share of users and items that come during the span, unknown before.
const NEW_SHARE: f64 = 0.1;
/// Before that, users and items came over this many days.
const PAST_DAYS: f64 = 365.0;

/// What a random stream is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    User = 1,
    Item = 2,
    Category = 3,
    Crosses = 4,
    Creator = 5,
    UserOrder = 6,
    ItemOrder = 7,
    Request = 8,
}

pub(super) fn stream(seed: u64, purpose: Purpose, number: u64) -> Stream {
    Stream::new(&[seed, purpose as u64, number])
}

pub(super) struct User {
    pub taste: [f32; DIM],
    /// Added to the logit of a click.
    pub bias: f32,
    /// Added to the logit of completing what was clicked.
    pub patience: f32,
    /// How much fresh items are preferred.
    pub novelty: f32,
    pub age: u8,
    pub country: u8,
    /// Whether the user's phone and tablet run iOS.
    pub ios: bool,
    pub joined_ms: i64,
}

pub(super) struct Item {
    pub vector: [f32; DIM],
    pub bias: f32,
    pub category: u8,
    pub creator: u32,
    pub duration_s: f32,
    pub published_ms: i64,
}

pub(super) struct Creator {
    pub bias: f32,
    pub country: u8,
}

pub(super) struct World {
    pub users: Vec<User>,
    pub items: Vec<Item>,
    pub creators: Vec<Creator>,
    /// Added to the logit by part of the day and category.
    pub day_part_category: [[f32; CATEGORIES.len()]; DAY_PARTS],
    /// Added to the logit by age and category.
    pub age_category: [[f32; CATEGORIES.len()]; AGES.len()],
    /// The user and the item at each rank of popularity.
    user_order: Vec<u32>,
    item_order: Vec<u32>,
    user_popularity: Zipf,
    item_popularity: Zipf,
    start_ms: i64,
    drift_per_day: f64,
}

impl World {
    pub fn new(settings: &GeneratorSettings) -> Self {
        let seed = settings.seed;
        let (users, items) = (settings.user_count(), settings.item_count());
        let centres: Vec<[f32; DIM]> = (0..CATEGORIES.len() as u64)
            .map(|category| vector(&mut stream(seed, Purpose::Category, category)))
            .collect();
        let creators = items.div_ceil(ITEMS_PER_CREATOR);
        let mut crosses = stream(seed, Purpose::Crosses, 0);
        let order = |purpose, count: u64| permutation(count as u32, &mut stream(seed, purpose, 0));
        Self {
            users: (0..users)
                .into_par_iter()
                .map(|number| user(settings, &centres, number))
                .collect(),
            items: (0..items)
                .into_par_iter()
                .map(|number| item(settings, &centres, creators, number))
                .collect(),
            creators: (0..creators)
                .map(|number| {
                    let mut stream = stream(seed, Purpose::Creator, number);
                    let country = stream.below(COUNTRIES.len() as u64) as u8;
                    Creator {
                        bias: 0.3 * stream.normal() as f32,
                        country,
                    }
                })
                .collect(),
            day_part_category: table(&mut crosses, 0.45),
            age_category: table(&mut crosses, 0.4),
            user_order: order(Purpose::UserOrder, users),
            item_order: order(Purpose::ItemOrder, items),
            user_popularity: Zipf::new(users, USER_EXPONENT),
            item_popularity: Zipf::new(items, ITEM_EXPONENT),
            start_ms: settings.start_ms,
            drift_per_day: settings.drift_per_day,
        }
    }

    /// How far tastes have rotated at `time_ms`, in radians.
    pub fn rotation(&self, time_ms: i64) -> f64 {
        self.drift_per_day * (time_ms - self.start_ms) as f64 / DAY_MS as f64
    }

    /// Draws a user who has joined by `time_ms`.
    pub fn draw_user(&self, stream: &mut Stream, time_ms: i64) -> usize {
        let rank = self.user_popularity.draw(stream) as usize;
        let ranks = (rank..self.users.len()).chain(0..rank);
        let mut users = ranks.map(|rank| self.user_order[rank] as usize);
        // User 0 has always joined.
        users
            .find(|&user| self.users[user].joined_ms <= time_ms)
            .unwrap_or(0)
    }

    /// Draws an item that is published by `time_ms` and not among `shown`.
    pub fn draw_item(&self, stream: &mut Stream, time_ms: i64, shown: &[usize]) -> usize {
        let items = self.items.len();
        let turn = self.rotation(time_ms) / std::f64::consts::TAU;
        let shift = (turn.rem_euclid(1.0) * items as f64) as usize;
        let fits =
            |item: &usize| self.items[*item].published_ms <= time_ms && !shown.contains(item);
        let at = |rank: usize| self.item_order[(rank + shift) % items] as usize;
        for _ in 0..8 {
            let item = at(self.item_popularity.draw(stream) as usize);
            if fits(&item) {
                return item;
            }
        }
        // The first items, more than a request shows, have always been there.
        (0..items).map(at).find(fits).unwrap_or(0)
    }
}

fn user(settings: &GeneratorSettings, centres: &[[f32; DIM]], number: u64) -> User {
    let mut stream = stream(settings.seed, Purpose::User, number);
    let favourite = centres[stream.below(centres.len() as u64) as usize];
    let second = centres[stream.below(centres.len() as u64) as usize];
    let own = vector(&mut stream);
    let taste = std::array::from_fn(|d| 0.7 * favourite[d] + 0.4 * second[d] + 0.6 * own[d]);
    User {
        taste,
        bias: 0.5 * stream.normal() as f32,
        patience: 0.5 * stream.normal() as f32,
        novelty: stream.normal() as f32,
        age: stream.below(AGES.len() as u64) as u8,
        country: stream.below(COUNTRIES.len() as u64) as u8,
        ios: stream.chance(0.4),
        joined_ms: arrival(settings, &mut stream, number < 1),
    }
}

fn item(settings: &GeneratorSettings, centres: &[[f32; DIM]], creators: u64, number: u64) -> Item {
    let mut stream = stream(settings.seed, Purpose::Item, number);
    let category = stream.below(centres.len() as u64) as u8;
    let own = vector(&mut stream);
    let centre = centres[usize::from(category)];
    Item {
        vector: std::array::from_fn(|d| 0.7 * centre[d] + 0.7 * own[d]),
        bias: 0.5 * stream.normal() as f32,
        category,
        creator: stream.below(creators) as u32,
        // Log-normal around two minutes.
        duration_s: (120.0 * (0.8 * stream.normal()).exp())
            .clamp(5.0, 3600.0)
            .round() as f32,
        published_ms: arrival(settings, &mut stream, number < 16),
    }
}

/// When a user or an item came: before the span, or during it.
fn arrival(settings: &GeneratorSettings, stream: &mut Stream, always_there: bool) -> i64 {
    let new = stream.chance(NEW_SHARE);
    let share = stream.uniform();
    if new && !always_there {
        settings.start_ms + (share * settings.span_ms() as f64) as i64
    } else {
        settings.start_ms - (share * PAST_DAYS * DAY_MS as f64) as i64
    }
}

fn vector(stream: &mut Stream) -> [f32; DIM] {
    std::array::from_fn(|_| stream.normal() as f32)
}

fn table<const R: usize, const C: usize>(stream: &mut Stream, deviation: f64) -> [[f32; C]; R] {
    std::array::from_fn(|_| std::array::from_fn(|_| (deviation * stream.normal()) as f32))
}

/// Ranks whose probability falls as rank^-exponent: the whole part of a bounded Pareto variable,
/// drawn by inversion, so no table is kept.
struct Zipf {
    count: u64,
    /// 1 - exponent.
    power: f64,
    /// (count + 1)^power - 1.
    range: f64,
}

impl Zipf {
    /// `exponent` must not be 1, where the inverse has another form.
    fn new(count: u64, exponent: f64) -> Self {
        let power = 1.0 - exponent;
        Self {
            count,
            power,
            range: (count as f64 + 1.0).powf(power) - 1.0,
        }
    }

    /// A rank from 0.
    fn draw(&self, stream: &mut Stream) -> u64 {
        let value = (1.0 + stream.uniform() * self.range).powf(1.0 / self.power);
        (value as u64 - 1).min(self.count - 1)
    }
}
