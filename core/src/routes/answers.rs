//! Which tables must not lead here, because answers to clients of theirs would not leave by the
//! interface. Pure.

use std::fmt;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Refusal, Table};
use crate::ids::SubnetId;

/// Clients whom answers would not reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// Their addresses.
    pub block: Ipv4Net,
    /// By which the answers would leave; none where this host keeps or drops them.
    pub interface: Option<String>,
    /// What to do about it.
    pub mend: String,
}

/// What follows on "answers to …".
impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(name) => write!(f, "would leave by {name} and be lost: {}", self.mend),
            None => write!(f, "would not leave this instance: {}", self.mend),
        }
    }
}

/// A subnet of the VPC.
#[derive(Clone, Debug, PartialEq)]
pub struct Subnet {
    /// Its ID.
    pub id: SubnetId,
    /// Its IPv4 addresses, if it has any.
    pub block: Option<Ipv4Net>,
    /// Whether a table is associated with it by name; else the VPC's main table serves it.
    pub has_table: bool,
}

/// Where answers to the VPC's clients go.
#[derive(Debug)]
pub enum Answers {
    /// All of them leave by the interface.
    ByTheInterface,
    /// Some do not.
    Elsewhere {
        /// Whose.
        clients: Vec<Elsewhere>,
        /// All subnets of the VPC, or why they are not known.
        subnets: Result<Vec<Subnet>, String>,
    },
}

impl Answers {
    /// Why a table must not lead here, if that is so. What is not known is none of a table that
    /// serves nobody.
    pub fn refusal(&self, table: &Table) -> Option<Refusal> {
        let Self::Elsewhere { clients, subnets } = self else {
            return None;
        };
        let unknown = |why: String| Some(Refusal::AnswersUnknown(why));
        let subnets = match subnets {
            Ok(subnets) => subnets,
            Err(_) if !table.main && table.subnets.is_empty() => return None,
            Err(why) => return unknown(why.clone()),
        };
        for subnet in subnets {
            let served = table.subnets.contains(&subnet.id) || (table.main && !subnet.has_table);
            let Some(block) = subnet.block.filter(|_| served) else {
                continue;
            };
            if let Some(clients) = clients.iter().find(|lost| hits(lost.block, block)) {
                return Some(Refusal::AnswersElsewhere {
                    subnet: subnet.id.clone(),
                    block,
                    clients: clients.clone(),
                });
            }
        }
        let is_known = |id: &&SubnetId| subnets.iter().any(|subnet| subnet.id == **id);
        let mut missing = table.subnets.iter().filter(|id| !is_known(id));
        let missing = missing.next()?;
        unknown(format!("EC2 does not say which addresses {missing} has"))
    }
}

/// Whether any address of both can be a client's: the first four and the last one of a subnet
/// cannot (Amazon VPC user guide, "Subnet sizing"). Network managers have routes to those.
fn hits(clients: Ipv4Net, subnet: Ipv4Net) -> bool {
    if clients.contains(&subnet) {
        return true;
    }
    let first = Ipv4Net::new(subnet.network(), subnet.prefix_len().max(30)).unwrap_or_default();
    let last = Ipv4Net::from(subnet.broadcast());
    subnet.contains(&clients) && !first.contains(&clients) && clients != last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::table;

    const CLIENTS: &str = "subnet-00000000000000002";
    const OTHERS: &str = "subnet-00000000000000003";
    const IPV6: &str = "subnet-00000000000000004";

    fn id(text: &str) -> SubnetId {
        text.parse().unwrap()
    }

    fn clients() -> Vec<Elsewhere> {
        vec![Elsewhere {
            block: "10.0.1.0/24".parse().unwrap(),
            interface: Some("ens6".to_owned()),
            mend: "mend".to_owned(),
        }]
    }

    fn answers() -> Answers {
        let subnet = |text: &str, block: Option<&str>, has_table: bool| Subnet {
            id: id(text),
            block: block.map(|block| block.parse().unwrap()),
            has_table,
        };
        Answers::Elsewhere {
            clients: clients(),
            subnets: Ok(vec![
                subnet(CLIENTS, Some("10.0.0.0/23"), false),
                subnet(OTHERS, Some("10.0.2.0/24"), true),
                subnet(IPV6, None, true),
            ]),
        }
    }

    fn serving(subnets: &[&str]) -> Table {
        let mut table = table(1, "any", None);
        table.subnets = subnets.iter().map(|text| id(text)).collect();
        table
    }

    fn refused() -> Refusal {
        Refusal::AnswersElsewhere {
            subnet: id(CLIENTS),
            block: "10.0.0.0/23".parse().unwrap(),
            clients: clients().remove(0),
        }
    }

    #[test]
    fn only_tables_of_such_clients_are_refused() {
        assert_eq!(answers().refusal(&serving(&[CLIENTS])), Some(refused()));
        assert_eq!(
            answers().refusal(&serving(&[OTHERS, CLIENTS])),
            Some(refused())
        );
        for others in [&[][..], &[OTHERS], &[IPV6, OTHERS]] {
            assert_eq!(answers().refusal(&serving(others)), None, "{others:?}");
        }
        let all = Answers::ByTheInterface;
        assert_eq!(all.refusal(&serving(&[CLIENTS])), None);
    }

    #[test]
    fn the_main_table_serves_whom_no_other_does() {
        let mut main = serving(&[]);
        main.main = true;
        assert_eq!(answers().refusal(&main), Some(refused()));
        let mut answers = answers();
        if let Answers::Elsewhere {
            subnets: Ok(subnets),
            ..
        } = &mut answers
        {
            subnets[0].has_table = true;
        }
        assert_eq!(answers.refusal(&main), None);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let unseen = "subnet-00000000000000005";
        let refusal = answers().refusal(&serving(&[OTHERS, unseen]));
        let Some(Refusal::AnswersUnknown(why)) = refusal else {
            panic!("{refusal:?}");
        };
        assert!(why.contains(unseen), "{why}");

        let answers = Answers::Elsewhere {
            clients: clients(),
            subnets: Err("denied".to_owned()),
        };
        let unknown = Some(Refusal::AnswersUnknown("denied".to_owned()));
        assert_eq!(answers.refusal(&serving(&[OTHERS])), unknown);
        let mut main = serving(&[]);
        assert_eq!(answers.refusal(&main), None, "it serves nobody");
        main.main = true;
        assert_eq!(answers.refusal(&main), unknown);
    }

    #[test]
    fn what_no_client_can_have_hits_nobody() {
        let subnet = "10.0.1.0/24".parse().unwrap();
        for (lost, expected) in [
            ("10.0.1.0/24", true),
            ("10.0.0.0/16", true),
            ("10.0.1.10/32", true),
            ("10.0.1.0/29", true),
            ("10.0.1.4/32", true),
            ("10.0.1.254/31", true),
            ("10.0.2.0/24", false),
            ("10.0.1.0/30", false),
            ("10.0.1.1/32", false),
            ("10.0.1.255/32", false),
        ] {
            assert_eq!(hits(lost.parse().unwrap(), subnet), expected, "{lost}");
        }
    }
}
