package config

// later are the keys whose features are still to come, [] standing for any
// index. Such a key is validated like any other and then refused unless it
// has its default, so that nobody believes in a setting that does nothing.
// A key without default (persistence) is refused in any case.
var later = map[string]bool{
	"helpers.ftp":                          true,
	"services[].persistence":               true,
	"services[].scheduler_flags":           true,
	"services[].tunnel.type":               true,
	"services[].servers[].tunnel.type":     true,
	"services[].servers[].upper_threshold": true,
	"services[].servers[].lower_threshold": true,
	"sysctl.conntrack":                     true,
	"sysctl.cache_bypass":                  true,
	"sysctl.expire_quiescent_template":     true,
	"sysctl.schedule_icmp":                 true,
	"sysctl.drop_entry":                    true,
	"sysctl.drop_packet":                   true,
	"sysctl.secure_tcp":                    true,
	"sysctl.am_droprate":                   true,
	"sysctl.amemthresh":                    true,
	"sysctl.backup_only":                   true,
	"sysctl.ignore_tunneled":               true,
	"sysctl.snat_reroute":                  true,
	"sysctl.sync_version":                  true,
	"sysctl.sync_threshold":                true,
	"sysctl.sync_refresh_period":           true,
	"sysctl.sync_retries":                  true,
	"sysctl.sync_persist_mode":             true,
	"sysctl.sync_ports":                    true,
	"sysctl.lblc_expiration":               true,
	"sysctl.lblcr_expiration":              true,
	"sysctl.run_estimation":                true,
}

// supportedSchedulers are those of schedulers that may be chosen by now.
var supportedSchedulers = []string{"rr", "wrr"}
