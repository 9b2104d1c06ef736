//! Requests and their impressions, each drawn from a stream of its own.

use streamrec_artifact::MISSING_KEY;

use super::domain::{
    ANDROID, CLICK, COMPLETE, COUNTRIES, DESKTOP, IOS, PHONE, SKIP, TABLET, TV, TV_PLATFORM, VIEW,
    WEB,
};
use super::settings::{DAY_MS, GeneratorSettings, REQUEST_IMPRESSIONS};
use super::truth::{Context, click_logit, complete_logit, sigmoid};
use super::world::{Item, Purpose, User, World, stream};
use crate::data::counter::Stream;

const HOUR_MS: i64 = 3_600_000;
/// How much busier than the mean the busiest hour is.
const DAILY_SWING: f64 = 0.6;
/// When the day is busiest, as a share of it, in UTC.
const BUSIEST: f64 = 0.8;

/// One row, before the columns that need the rows before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Impression {
    pub time_ms: i64,
    pub request: u64,
    /// The user's number; the row may not tell it.
    pub user: u32,
    pub user_key: u64,
    pub age: u8,
    pub country: u8,
    pub tenure_days: f32,
    pub device: u8,
    pub platform: u8,
    pub hour: u8,
    pub item_key: u64,
    pub category: u8,
    pub creator: u32,
    pub duration_s: f32,
    pub item_age_days: f32,
    pub event: u8,
    pub watch_s: f32,
    pub clicked: bool,
    pub completed: bool,
    pub p_click: f32,
    pub p_complete: f32,
    /// The probability of a click by main effects alone.
    pub p_click_main: f32,
}

/// What the impressions of a request share.
struct Visit {
    time_ms: i64,
    request: u64,
    user: u32,
    user_key: u64,
    device: usize,
    platform: usize,
    hour: u8,
    /// Cosine and sine of how far tastes have rotated.
    rotation: (f32, f32),
}

/// Appends the impressions of a request.
pub(super) fn draw_request(
    settings: &GeneratorSettings,
    world: &World,
    request: u64,
    into: &mut Vec<Impression>,
) {
    let mut stream = stream(settings.seed, Purpose::Request, request);
    let visit = draw_visit(settings, world, request, &mut stream);
    let first = request * REQUEST_IMPRESSIONS;
    let count = REQUEST_IMPRESSIONS.min(settings.impressions - first) as usize;
    let mut shown = [usize::MAX; REQUEST_IMPRESSIONS as usize];
    for place in 0..count {
        let item = world.draw_item(&mut stream, visit.time_ms, &shown[..place]);
        shown[place] = item;
        into.push(draw_impression(settings, world, &visit, item, &mut stream));
    }
}

fn draw_visit(
    settings: &GeneratorSettings,
    world: &World,
    request: u64,
    stream: &mut Stream,
) -> Visit {
    let time_ms = request_time(settings, request, stream);
    let number = world.draw_user(stream, time_ms);
    let user = &world.users[number];
    let user_key = key(number, settings, stream);
    let (device, platform) = draw_device(user, stream);
    let local_ms = time_ms + COUNTRIES[usize::from(user.country)].utc_offset_hours * HOUR_MS;
    let (sin, cos) = world.rotation(time_ms).sin_cos();
    Visit {
        time_ms,
        request,
        user: number as u32,
        user_key,
        device,
        platform,
        hour: (local_ms.rem_euclid(DAY_MS) / HOUR_MS) as u8,
        rotation: (cos as f32, sin as f32),
    }
}

fn draw_impression(
    settings: &GeneratorSettings,
    world: &World,
    visit: &Visit,
    number: usize,
    stream: &mut Stream,
) -> Impression {
    let (user, item) = (&world.users[visit.user as usize], &world.items[number]);
    let item_age_days = days(visit.time_ms - item.published_ms);
    let Visit {
        hour,
        device,
        rotation,
        ..
    } = *visit;
    let context = Context {
        hour,
        device,
        item_age_days,
        rotation,
    };
    let logit = click_logit(world, user, item, &context);
    let p_click = sigmoid(logit.main + logit.crosses);
    let p_complete = p_click * sigmoid(complete_logit(user, item, &context));
    let outcome = draw_outcome(item, p_click, p_complete, stream);
    let mut dense = |value| missing(value, settings.missing_dense, stream);
    Impression {
        time_ms: visit.time_ms,
        request: visit.request,
        user: visit.user,
        user_key: visit.user_key,
        age: user.age,
        country: user.country,
        tenure_days: dense(days(visit.time_ms - user.joined_ms)),
        device: device as u8,
        platform: visit.platform as u8,
        hour,
        duration_s: dense(item.duration_s),
        item_age_days: dense(item_age_days),
        item_key: key(number, settings, stream),
        category: item.category,
        creator: item.creator,
        event: outcome.event as u8,
        watch_s: missing(outcome.watch_s, settings.late, stream),
        clicked: outcome.event == CLICK || outcome.event == COMPLETE,
        completed: outcome.event == COMPLETE,
        p_click: p_click as f32,
        p_complete: p_complete as f32,
        p_click_main: sigmoid(logit.main) as f32,
    }
}

/// The key of a user or an item, where the row tells it.
fn key(number: usize, settings: &GeneratorSettings, stream: &mut Stream) -> u64 {
    if stream.chance(settings.missing_ids) {
        MISSING_KEY
    } else {
        number as u64 + 1
    }
}

struct Outcome {
    event: usize,
    watch_s: f32,
}

fn draw_outcome(item: &Item, p_click: f64, p_complete: f64, stream: &mut Stream) -> Outcome {
    // One number decides both labels: completed, only clicked, or neither.
    let luck = stream.uniform();
    let (event, watch_s) = if luck < p_complete {
        (
            COMPLETE,
            f64::from(item.duration_s) * (0.9 + 0.15 * stream.uniform()),
        )
    } else if luck < p_click {
        (CLICK, f64::from(item.duration_s) * 0.9 * stream.uniform())
    } else if stream.chance(0.35) {
        (SKIP, f64::NAN)
    } else {
        // A few seconds of preview.
        (VIEW, 1.0 - 4.0 * (1.0 - stream.uniform()).ln())
    };
    Outcome {
        event,
        watch_s: watch_s as f32,
    }
}

fn draw_device(user: &User, stream: &mut Stream) -> (usize, usize) {
    let mobile = if user.ios { IOS } else { ANDROID };
    match stream.uniform() {
        share if share < 0.6 => (PHONE, mobile),
        share if share < 0.7 => (TABLET, mobile),
        share if share < 0.9 => (DESKTOP, WEB),
        _ => (TV, TV_PLATFORM),
    }
}

fn missing(value: f32, share: f64, stream: &mut Stream) -> f32 {
    if stream.chance(share) {
        f32::NAN
    } else {
        value
    }
}

fn days(duration_ms: i64) -> f32 {
    (duration_ms as f64 / DAY_MS as f64) as f32
}

/// The time of a request: later than that of the one before, as often as the hour is busy.
fn request_time(settings: &GeneratorSettings, request: u64, stream: &mut Stream) -> i64 {
    let share = (request as f64 + stream.uniform()) / settings.requests() as f64;
    let day = share * f64::from(settings.days);
    let time = day.floor() + time_of_day(day.fract());
    settings.start_ms + ((time * DAY_MS as f64) as i64).min(settings.span_ms() - 1)
}

/// When so large a share of the day's requests has come: the inverse of
/// x + swing / tau * (sin(tau (x - busiest)) + sin(tau busiest)), by bisection.
fn time_of_day(share: f64) -> f64 {
    const TAU: f64 = std::f64::consts::TAU;
    let come =
        |x: f64| x + DAILY_SWING / TAU * ((TAU * (x - BUSIEST)).sin() + (TAU * BUSIEST).sin());
    let (mut low, mut high) = (0.0, 1.0);
    // 2^-27 of a day is less than a millisecond.
    for _ in 0..27 {
        let middle = 0.5 * (low + high);
        if come(middle) < share {
            low = middle
        } else {
            high = middle
        }
    }
    0.5 * (low + high)
}
