//! The names of the generated world.

/// A name and what tells it apart in the arithmetic of the truth.
pub(super) struct Country {
    pub name: &'static str,
    /// Hours to add to UTC.
    pub utc_offset_hours: i64,
}

pub(super) const COUNTRIES: [Country; 5] = [
    Country {
        name: "DE",
        utc_offset_hours: 1,
    },
    Country {
        name: "ES",
        utc_offset_hours: 1,
    },
    Country {
        name: "US",
        utc_offset_hours: -5,
    },
    Country {
        name: "JP",
        utc_offset_hours: 9,
    },
    Country {
        name: "BR",
        utc_offset_hours: -3,
    },
];
pub(super) const AGES: [&str; 6] = ["13-17", "18-24", "25-34", "35-44", "45-54", "55+"];
pub(super) const CATEGORIES: [&str; 12] = [
    "music", "sports", "news", "comedy", "gaming", "travel", "food", "science", "fashion", "film",
    "crafts", "nature",
];
pub(super) const DEVICES: [&str; 4] = ["phone", "tablet", "desktop", "tv"];
pub(super) const PLATFORMS: [&str; 4] = ["ios", "android", "web", "tv"];
pub(super) const EVENT_TYPES: [&str; 4] = ["view", "click", "complete", "skip"];

pub(super) const PHONE: usize = 0;
pub(super) const TABLET: usize = 1;
pub(super) const DESKTOP: usize = 2;
pub(super) const TV: usize = 3;
pub(super) const IOS: usize = 0;
pub(super) const ANDROID: usize = 1;
pub(super) const WEB: usize = 2;
pub(super) const TV_PLATFORM: usize = 3;
pub(super) const VIEW: usize = 0;
pub(super) const CLICK: usize = 1;
pub(super) const COMPLETE: usize = 2;
pub(super) const SKIP: usize = 3;
