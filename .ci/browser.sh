# Shared by `.ci/run` and `.ci/long`.

# Chromium of the system, which playwright drives; it downloads none.
install_chromium() {
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
    { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null
}
