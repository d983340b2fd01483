//! Making an account from the command line: the same way for a running server and a stopped one.
//! May not: ask for a weaker password than registration does.

use vestibule_api::{
    App,
    client_server::{NewAccount, Password, user_id_of},
};

/// Makes an account; durable when it returns, with a line for people.
///
/// # Errors
/// Why not, for people.
pub async fn register(app: &App, name: &str, password: String, is_admin: bool) -> Result<String, String> {
    let suffix = format!(":{}", app.server_name());
    let localpart = name.strip_prefix('@').and_then(|id| id.strip_suffix(suffix.as_str())).unwrap_or(name);
    let user_id = user_id_of(localpart, app.server_name()).map_err(|error| error.to_string())?;
    let account = NewAccount { user_id, password: Password::new(password), is_admin, display_name: None, device: None };
    match account.register(app).await {
        Ok(registered) => Ok(format!("registered {}", registered.user_id)),
        Err(error) => Err(error.to_string()),
    }
}
