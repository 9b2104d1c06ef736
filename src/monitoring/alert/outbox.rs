//! Posts on their way out: a file each, which goes when its receiver has it. Nothing is lost while a receiver is away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Notification;
use crate::monitoring::MonitoringError;
use crate::monitoring::rules::Webhook;
use crate::monitoring::store::{names, read_json, write_json};

const OUTBOX_VERSION: u32 = 1;
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(10);

/// The folder `outbox/`.
#[derive(Debug, Clone)]
pub struct Outbox {
    folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Letter {
    format_version: u32,
    webhook: String,
    notification: Notification,
}

/// What became of the posts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Posts that arrived.
    pub delivered: usize,
    /// Posts that wait for the next time.
    pub waiting: usize,
    /// Why, one for each webhook.
    pub problems: Vec<String>,
}

impl Outbox {
    /// That of a monitoring folder.
    pub fn new(root: &Path) -> Self {
        Self {
            folder: root.join("outbox"),
        }
    }

    /// Puts a post in; the same moment, rule and webhook again replaces it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn put(
        &self,
        end_ms: i64,
        rule: &str,
        webhook: &str,
        notification: &Notification,
    ) -> Result<(), MonitoringError> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let receiver: String = webhook.chars().map(plain).collect();
        let path = self
            .folder
            .join(format!("{end_ms:013}-{rule}-{receiver}.json"));
        let letter = Letter {
            format_version: OUTBOX_VERSION,
            webhook: webhook.to_owned(),
            notification: notification.clone(),
        };
        write_json(&path, &letter)
    }

    /// Posts what is in, oldest first, each with some attempts. A webhook that cannot be reached keeps its order: its
    /// later posts wait, too.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn deliver(&self, webhooks: &[Webhook]) -> Result<Delivery, MonitoringError> {
        let mut files: Vec<String> = names(&self.folder)?;
        files.retain(|name| name.ends_with(".json") && !name.starts_with('.'));
        files.sort_unstable();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build()
            .into();
        let mut found = Delivery::default();
        let mut away = BTreeSet::new();
        for name in files {
            let path = self.folder.join(name);
            let Some(letter) = read_json::<Letter>(&path, OUTBOX_VERSION)? else {
                continue;
            };
            let sent = match webhooks
                .iter()
                .find(|webhook| webhook.name == letter.webhook)
            {
                _ if away.contains(&letter.webhook) => None,
                Some(webhook) => Some(post(&agent, webhook, &letter.notification)),
                None => Some(Err("no such webhook in the rules any more".to_owned())),
            };
            match sent {
                Some(Ok(())) => {
                    std::fs::remove_file(&path).map_err(MonitoringError::file("remove", &path))?;
                    found.delivered += 1;
                }
                Some(Err(problem)) => {
                    found
                        .problems
                        .push(format!("webhook `{}`: {problem}", letter.webhook));
                    away.insert(letter.webhook);
                    found.waiting += 1;
                }
                None => found.waiting += 1,
            }
        }
        Ok(found)
    }
}

fn post(agent: &ureq::Agent, webhook: &Webhook, body: &Notification) -> Result<(), String> {
    let token = webhook.bearer_token_file.as_deref().map(|path| {
        let text = std::fs::read_to_string(path);
        text.map_err(|error| format!("cannot read {}: {error}", path.display()))
    });
    let token = token.transpose()?;
    let mut problem = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(FIRST_PAUSE * 2u32.pow(attempt - 1));
        }
        let mut request = agent.post(&webhook.url);
        if let Some(token) = &token {
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        match request.send_json(body) {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => problem = format!("{} answered {}", webhook.url, answer.status()),
            Err(error) => problem = format!("no answer from {}: {error}", webhook.url),
        }
    }
    Err(format!("{problem}, {ATTEMPTS} times"))
}
