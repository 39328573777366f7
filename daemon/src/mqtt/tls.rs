//! TLS to the broker: rustls with ring, authorities from a file or from the system.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::MqttError;
use crate::config::FilePath;

/// The fault of a TLS connection and its remedy, for the owner.
pub(super) fn sentence(error: &std::io::Error) -> String {
    use rustls::CertificateError as C;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            C::Expired | C::ExpiredContext { .. } => {
                "its certificate has expired; renew it at the broker".to_owned()
            }
            C::NotValidYet | C::NotValidYetContext { .. } => {
                "its certificate is not valid yet; check the clock of this device".to_owned()
            }
            C::UnknownIssuer => {
                "its certificate is by an authority that is not trusted here; set mqtt.ca_file to the one \
                 that signed it"
                    .to_owned()
            }
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                "its certificate is for another name; mqtt.url must name the host as the certificate \
                 does"
                    .to_owned()
            }
            _ => format!("its certificate cannot be used ({error}); see mqtt.ca_file"),
        },
        Some(rustls::Error::InvalidMessage(_)) => {
            "what answers does not speak TLS; mqtt:// or another port may be right".to_owned()
        }
        _ => format!("{error}; see mqtt.ca_file, and whether the port is the one for TLS"),
    }
}

/// The client side of every TLS connection to the broker.
pub(super) fn client_config(ca_file: Option<&FilePath>) -> Result<Arc<ClientConfig>, MqttError> {
    let mut roots = RootCertStore::empty();
    let from = match ca_file {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|source| MqttError::File {
                what: "file of authorities (mqtt.ca_file)",
                path: path.clone(),
                source,
            })?;
            // A bundle may hold entries that rustls does not take; one usable authority is enough.
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
            path.to_string()
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "the system's certificate store".to_owned()
        }
    };
    if roots.is_empty() {
        return Err(MqttError::NoAuthority { from });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(MqttError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
