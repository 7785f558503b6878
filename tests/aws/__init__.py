"""What AWS answers when it is late, denied, broken or odd, and when IMDS is."""
