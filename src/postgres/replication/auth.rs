//! Logging in.

use bytes::{Buf as _, Bytes};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::wire::{Wire, unexpected};
use crate::error::{Error, Kind, Result};
use crate::postgres::settings::ConnectionSettings;
use crate::runtime::SecretText;

/// What a login may use.
pub(super) struct Login<'a> {
    pub(super) settings: &'a ConnectionSettings,
    pub(super) user: &'a str,
    pub(super) password: Option<SecretText>,
    /// Nobody on the way can read what is sent: TLS, or a socket of this machine.
    pub(super) private: bool,
    /// Hash of the server's certificate.
    pub(super) binding: Option<Vec<u8>>,
}

impl Login<'_> {
    /// Answers the server until it lets us in.
    pub(super) async fn run(&self, wire: &mut Wire) -> Result<()> {
        let mut proven = false;
        loop {
            let message = wire.expect().await?;
            if message.tag != b'R' {
                return Err(unexpected(message.tag, "came in place of a request to log in"));
            }
            let mut body = message.body;
            match body.try_get_u32().map_err(|_| unexpected(b'R', "is cut off"))? {
                0 => {
                    if !proven {
                        self.allow("none")?;
                    }
                    return Ok(());
                }
                3 => {
                    self.allow("password")?;
                    if !self.private {
                        return Err(Error::new(
                            Kind::Denied,
                            "the server asks for the password itself over a connection that is not encrypted",
                        )
                        .hint("Use sslmode=require or better, or scram-sha-256 in pg_hba.conf."));
                    }
                    let password = self.password()?.expose().as_bytes().to_vec();
                    frontend::password_message(&password, &mut wire.output).map_err(unsendable)?;
                }
                5 => {
                    self.allow("md5")?;
                    let salt: [u8; 4] =
                        body.get(..4).and_then(|s| s.try_into().ok()).ok_or_else(|| unexpected(b'R', "is cut off"))?;
                    let answer = md5_hash(self.user.as_bytes(), self.password()?.expose().as_bytes(), salt);
                    frontend::password_message(answer.as_bytes(), &mut wire.output).map_err(unsendable)?;
                }
                10 => {
                    self.allow("scram-sha-256")?;
                    self.scram(wire, &body).await?;
                    proven = true;
                    continue;
                }
                _ => {
                    return Err(Error::new(Kind::Denied, "the server asks for a way to log in that is not supported here")
                        .hint("Supported are trust, peer, certificates, scram-sha-256, md5 and password."));
                }
            }
            proven = true;
            wire.flush().await?;
        }
    }

    async fn scram(&self, wire: &mut Wire, mechanisms: &Bytes) -> Result<()> {
        let offered = |name: &str| mechanisms.split(|b| *b == 0).any(|m| m == name.as_bytes());
        let wanted = self.settings.get("channel_binding").unwrap_or("prefer");
        let usable = self.binding.clone().filter(|_| wanted != "disable");
        let (mechanism, binding) = match usable {
            Some(hash) if offered(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)),
            // "I could have, and believe that you cannot": a server that could then knows that somebody is in between.
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if wanted == "require" && mechanism != SCRAM_SHA_256_PLUS {
            return Err(no_binding());
        }
        if !offered(mechanism) {
            return Err(Error::new(Kind::Denied, "the server offers no SCRAM mechanism that is known"));
        }
        let failed = |e: std::io::Error| Error::new(Kind::Denied, "the server's part of the login is wrong").because(e);
        let mut scram = ScramSha256::new(self.password()?.expose().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut wire.output).map_err(unsendable)?;
        wire.flush().await?;
        scram.update(&part(wire, 11).await?).map_err(failed)?;
        frontend::sasl_response(scram.message(), &mut wire.output).map_err(unsendable)?;
        wire.flush().await?;
        // The server proves that it knows the password as well.
        scram.finish(&part(wire, 12).await?).map_err(failed)
    }

    fn password(&self) -> Result<&SecretText> {
        self.password.as_ref().ok_or_else(|| {
            Error::new(Kind::Denied, "the server asks for a password, and none is given")
                .hint("Put it into the URL, a secret, or a password file with a line for this host and user.")
        })
    }

    /// Refuses what `require_auth` does not allow.
    fn allow(&self, method: &str) -> Result<()> {
        if method != "scram-sha-256" && self.settings.get("channel_binding") == Some("require") {
            return Err(no_binding());
        }
        let Some(list) = self.settings.get("require_auth") else { return Ok(()) };
        let (mut named, mut refused) = (false, false);
        let mut positive = false;
        for entry in list.split(',').map(str::trim) {
            match entry.strip_prefix('!') {
                Some(entry) => refused |= entry == method,
                None => {
                    positive = true;
                    named |= entry == method;
                }
            }
        }
        if refused || (positive && !named) {
            return Err(Error::new(
                Kind::Denied,
                format!("the server wants the login method `{method}`, which require_auth does not allow"),
            ));
        }
        Ok(())
    }
}

/// The next part of a SASL exchange.
async fn part(wire: &mut Wire, step: u32) -> Result<Bytes> {
    let mut message = wire.expect().await?;
    if message.tag != b'R' || message.body.try_get_u32().ok() != Some(step) {
        return Err(unexpected(message.tag, "came in the middle of a login"));
    }
    Ok(message.body)
}

fn no_binding() -> Error {
    Error::new(Kind::Denied, "channel_binding=require is set, and this login has no channel binding")
        .hint("It needs TLS, scram-sha-256, and a certificate whose signature names its hash.")
}

fn unsendable(error: std::io::Error) -> Error {
    Error::new(Kind::Config, "the password cannot be sent").because(error)
}
