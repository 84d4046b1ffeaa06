//! What is asked of a restore.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::policy::Target;
use crate::guest::check_name;
use crate::{GuestId, PointId};

/// Longest host name (RFC 1123) and domain name.
const HOSTNAME: usize = 63;
const DOMAIN: usize = 253;
/// Longest computer name of Windows (NetBIOS).
const WINDOWS_NAME: usize = 15;

/// Which point becomes what. The command that carries it names the guest that comes of it: for [`RestoreAs::AsItWas`]
/// the one of the set, for [`RestoreAs::AsNew`] a new id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreOrder {
    /// The guest whose set it is.
    #[n(0)]
    pub set: GuestId,
    #[n(1)]
    pub point: PointId,
    /// Where the point is read from.
    #[n(2)]
    #[serde(default)]
    pub from: Target,
    #[n(3)]
    pub to_be: RestoreAs,
    #[n(4)]
    #[serde(default)]
    pub start: bool,
    /// Start at once on a layer over the point, and bring the data in behind.
    #[n(5)]
    #[serde(default)]
    pub at_once: bool,
}

/// What comes of a restored point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case", deny_unknown_fields)]
pub enum RestoreAs {
    /// The same guest: id, addresses, name. Refused while the original runs.
    #[default]
    #[n(0)]
    AsItWas,
    /// Another guest: new id and network addresses, fresh TPM, and what is given here.
    #[n(1)]
    AsNew {
        #[n(0)]
        name: String,
        /// Through cloud-init.
        #[n(1)]
        #[serde(default)]
        hostname: Option<String>,
        /// Computer name in a Windows answer file.
        #[n(2)]
        #[serde(default)]
        windows_name: Option<String>,
        /// Domain that a Windows guest joins.
        #[n(3)]
        #[serde(default)]
        domain: Option<String>,
    },
}

impl RestoreAs {
    /// Whether a guest may get these names.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let RestoreAs::AsNew { name, hostname, windows_name, domain } = self else { return Ok(()) };
        check_name(name)?;
        if hostname.as_ref().is_some_and(|name| !label(name, HOSTNAME)) {
            return Err("the host name is not 1 to 63 letters, digits and inner hyphens".into());
        }
        if windows_name.as_ref().is_some_and(|name| !label(name, WINDOWS_NAME) || all_digits(name)) {
            return Err("the Windows name is not 1 to 15 letters, digits and inner hyphens with a letter in it".into());
        }
        let bad = |domain: &String| domain.len() > DOMAIN || !domain.split('.').all(|part| label(part, HOSTNAME));
        if domain.as_ref().is_some_and(bad) {
            return Err("the domain is no DNS name".into());
        }
        Ok(())
    }
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn label(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}
