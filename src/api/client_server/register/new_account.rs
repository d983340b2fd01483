//! Makes an account, and logs its first device in, in one commit.
//! May not: decide who may have an account.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId};
use vestibule_storage::accounts::{AccountChange, User};

use crate::{
    client_server::{
        commit::commit,
        password::{self, Password, SALT_BYTES},
        session::DeviceRequest,
    },
    error::MatrixError,
    state::App,
};

/// An account to be made.
#[derive(Debug)]
pub struct NewAccount {
    /// Its user id, of this server.
    pub user_id: OwnedUserId,
    /// Its password.
    pub password: Password,
    /// May it use the admin listener.
    pub is_admin: bool,
    /// Its display name, as JSON text.
    pub display_name: Option<String>,
    /// The device that is logged in at once.
    pub device: Option<DeviceRequest>,
}

/// An account that was made.
pub struct Registered {
    /// Its user id.
    pub user_id: OwnedUserId,
    /// The device that was logged in, and its access token.
    pub session: Option<(OwnedDeviceId, String)>,
}

impl NewAccount {
    /// Makes the account. Durable when it returns.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD` or `M_INVALID_PARAM` for the password, 400 `M_USER_IN_USE`, 429 and 5xx when it cannot be made
    /// now. Then nothing was made.
    pub async fn register(self, app: &App) -> Result<Registered, MatrixError> {
        self.password.check()?;
        let now = app.clock.now();
        let mut salt = [0; SALT_BYTES];
        app.randomness.fill(&mut salt);
        let password_hash = password::hash(&app.cpu, self.password, salt).await?;
        let user = User {
            user_id: self.user_id.clone(),
            password_hash: Some(password_hash),
            is_admin: self.is_admin,
            is_deactivated: false,
            created_at: now,
            profile: self
                .display_name
                .map(|text| ("displayname".to_owned(), text))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        };
        let mut changes = vec![AccountChange::CreateUser(user)];
        let session = match self.device {
            None => None,
            Some(device) => {
                let session = device.into_session(&self.user_id, &*app.stores.accounts, &*app.randomness, now).await?;
                changes.push(session.change);
                Some((session.device_id, session.access_token))
            }
        };
        commit(&app.stores, changes).await?;
        Ok(Registered { user_id: self.user_id, session })
    }
}
